"""How long until the first token of a long prompt, when its KV is computed, on the GPU, in memory
or on disk?

    python benchmarks/sglang_ttft.py            # on a machine with a GPU and SGLang

One engine after the other, the same prompts: radixkv, then SGLang's own HiCache as the peer. Both
serve a Llama-3.1-8B shape with made-up weights, 64-token pages, batch of one. Where a prompt's KV
came from is checked in each answer (`cached_tokens_details`): a time whose tokens came from
elsewhere is an error, not a row.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import emit, progress

LENGTHS = (8192, 32768, 65536, 100_000)
PAGE = 64
ROUNDS = 7
DEVICE_TOKENS = 150_000
FILLER_TOKENS = 120_000  # enough to push every other prompt off the device
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIG = """
memory: {{size: 60GiB}}
disk: {{path: {disk}, size: 40GiB}}
prefetch: {{deadline: 60s}}
"""
HICACHE = {
    "enable_hierarchical_cache": True,
    "hicache_size": 60,
    "hicache_io_backend": "kernel",
    "hicache_mem_layout": "page_first",
    "hicache_write_policy": "write_through",
}


class Bench:
    """One engine, and the times of its first tokens."""

    def __init__(self, cache: str, folder: Path) -> None:
        import sglang

        (folder / "config.json").write_text(json.dumps(LLAMA_8B))
        options: dict[str, Any] = dict(HICACHE)
        if cache == "radixkv":
            options = {"radix_cache_backend": "radixkv"}
        self._engine = sglang.Engine(
            model_path=str(folder),
            load_format="dummy",
            skip_tokenizer_init=True,
            attention_backend="triton",
            sampling_backend="pytorch",
            grammar_backend="none",
            disable_cuda_graph=True,
            dtype="bfloat16",
            context_length=131072,
            page_size=PAGE,
            chunked_prefill_size=16384,
            max_total_tokens=DEVICE_TOKENS,
            mem_fraction_static=0.5,
            log_level="warning",
            **options,
        )
        self._random = random.Random(3)
        self._filler = self.prompt(FILLER_TOKENS)

    def prompt(self, num_tokens: int) -> list[int]:
        return [self._random.randrange(3, 128_000) for _ in range(num_tokens)]

    def first_token_ms(self, prompt: list[int], source: str | None = None) -> float:
        """Time to the first token; every token that can be cached must come from `source`."""
        began = time.perf_counter()
        options = {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True}
        answer = self._engine.generate(input_ids=prompt, sampling_params=options)
        elapsed_ms = (time.perf_counter() - began) * 1e3
        wanted = (len(prompt) - 1) // PAGE * PAGE if source else 0
        details = answer["meta_info"].get("cached_tokens_details") or {}
        found = details.get(source, 0) if source else answer["meta_info"]["cached_tokens"]
        if found != wanted:
            raise RuntimeError(f"{wanted} tokens from {source} expected, got {details}")
        return elapsed_ms

    def fill(self) -> None:
        """Push all other prompts off the device."""
        self._engine.generate(
            input_ids=self._filler, sampling_params={"max_new_tokens": 1, "ignore_eos": True}
        )

    def run(self, with_disk: bool) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {}
        for length in (4096, 2048):  # compiles the kernels
            self.first_token_ms(self.prompt(length))
        prompts = {length: self.prompt(length) for length in LENGTHS}
        for length, prompt in prompts.items():
            times[f"{length}.cold"] = [self.first_token_ms(prompt)]
            times[f"{length}.device"] = [
                self.first_token_ms(prompt, "device") for _ in range(ROUNDS)
            ]
            progress(f"  {length} tokens: cold and device")
        self.fill()
        time.sleep(2)  # what was computed last is still being copied out
        for _ in range(ROUNDS):
            for length, prompt in prompts.items():
                self.fill()
                host_ms = self.first_token_ms(prompt, "host")
                times.setdefault(f"{length}.host", []).append(host_ms)
        if with_disk:
            time.sleep(15)
            self._engine.flush_cache()
            for length, prompt in prompts.items():
                times[f"{length}.disk"] = [self.first_token_ms(prompt, "storage")]
        self._engine.shutdown()
        return times


def measure(cache: str) -> dict[str, list[float]]:
    """Times of one cache, measured in a process of its own."""
    progress(f"{cache}: starting SGLang")
    command = [sys.executable, __file__, "--only", cache]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return times


def run_one(cache: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="radixkv-bench-"))
    try:
        config = folder / "radixkv.yaml"
        config.write_text(CONFIG.format(disk=folder / "disk"))
        os.environ["RADIXKV_CONFIG"] = str(config)
        times = Bench(cache, folder).run(with_disk=cache == "radixkv")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(times), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("radixkv", "hicache"), help=argparse.SUPPRESS)
    only = parser.parse_args().only
    if only:
        run_one(only)
        return
    ours, theirs = measure("radixkv"), measure("hicache")
    for name, values in ours.items():
        peer = theirs.get(name)
        extra = {}
        if peer:
            baseline = statistics.median(peer)
            ratio = statistics.median(values) / baseline
            extra = {"baseline": round(baseline, 1), "baseline_name": "HiCache", "ratio": ratio}
        emit(f"ttft.sglang.{name}_ms", values, "ms", **extra)


if __name__ == "__main__":
    main()
