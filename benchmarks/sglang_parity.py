"""Are answers from KV that came back from memory as good as those from KV that never left the GPU?

    python benchmarks/sglang_parity.py          # on a machine with a GPU and SGLang
    python benchmarks/sglang_parity.py --page 1 --attention flashinfer --ranks 2 --graphs

A model of a Llama-3.2-1B shape with set weights answers 16 prompts: computed, found on the device,
and found in memory. A row is the mean difference of a kind's log-probabilities from the computed
ones, over the five likeliest tokens. The device hits differ too: other batch shapes round
otherwise. The control loads into slots half the device away, so that prompts read what lay in
theirs before, and must not pass. (Exchanging slots within a prompt would not show: attention adds
up keys and values in any order.)
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from harness import emit, progress
from sglang_engine import PAGE, Setup, Shape, Times, measure, run_alone

SHAPE = Shape(hidden=2048, inner=8192, num_layers=16, head_dim=64)
NUM_PROMPTS = 16
PROMPT_TOKENS = 2000
DEVICE_TOKENS = 12_000  # a third of the prompts
NUM_TOP = 5
NUM_ASKED = 50  # among which those five are looked for
MISSED = 5.0  # the difference of a token that is not among them
ALLOWED = 1.25  # times the device hits' difference
MISPLACES = "RADIXKV_BENCH_MISPLACES"
LogProbs = dict[int, float]


def write_weights(folder: Path) -> None:
    """Matrices from a normal distribution of a fixed seed, vectors of ones."""
    from safetensors.torch import save_file

    generator = torch.Generator("cuda").manual_seed(1)

    def matrix(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device="cuda") * 0.02
        return values.to(torch.bfloat16).cpu()

    def ones() -> torch.Tensor:
        return torch.ones(SHAPE.hidden, dtype=torch.bfloat16)

    hidden, heads, kv_heads = SHAPE.hidden, SHAPE.query_size, SHAPE.kv_size
    shapes = {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (SHAPE.inner, hidden),
        "mlp.up_proj": (SHAPE.inner, hidden),
        "mlp.down_proj": (hidden, SHAPE.inner),
    }
    weights = {
        "model.embed_tokens.weight": matrix(SHAPE.vocabulary, hidden),
        "lm_head.weight": matrix(SHAPE.vocabulary, hidden),
        "model.norm.weight": ones(),
    }
    for layer in range(SHAPE.num_layers):
        prefix = f"model.layers.{layer}."
        weights |= {f"{prefix}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        weights |= {
            f"{prefix}{name}.weight": ones()
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def misplace_loads() -> None:
    """Makes the cache of this process load into slots half the device away."""
    from radixkv import KVCache
    from sglang_ext import radix_cache

    load = KVCache.load

    def misplaced(cache: KVCache, handle: Any, slots: Any, first_token: int = 0) -> Any:
        others = (slots.owner + DEVICE_TOKENS // 2) % DEVICE_TOKENS
        return load(cache, handle, radix_cache._engine_slots(others), first_token)

    KVCache.load = misplaced  # type: ignore[method-assign]


if os.environ.get(MISPLACES) and __name__ == "__mp_main__":  # SGLang's scheduler, started by spawn
    misplace_loads()


class Bench:
    """One engine, and what it thinks of the first token after each prompt."""

    def __init__(self, engine: Any, page: int) -> None:
        self._engine = engine
        self._page = page
        source = random.Random(3)
        self._prompts = [
            [source.randrange(3, 128_000) for _ in range(PROMPT_TOKENS)] for _ in range(NUM_PROMPTS)
        ]

    def ask(self, prompt: list[int], source: str | None = None) -> LogProbs:
        """Log-probabilities of the likeliest tokens; the prompt's KV must come from `source`."""
        answer = self._engine.generate(
            input_ids=prompt,
            sampling_params={"temperature": 0, "max_new_tokens": 1, "ignore_eos": True},
            return_logprob=True,
            logprob_start_len=len(prompt) - 1,
            top_logprobs_num=NUM_ASKED,
        )
        info = answer["meta_info"]
        wanted = (len(prompt) - 1) // self._page * self._page if source else 0
        details = info.get("cached_tokens_details") or {}
        found = details.get(source, 0) if source else info["cached_tokens"]
        if found != wanted:
            raise RuntimeError(f"{wanted} tokens from {source} expected, got {details}")
        return {token: log_prob for log_prob, token, _ in info["output_top_logprobs"][0]}

    def run(self) -> Times:
        computed, device = [], []
        for prompt in self._prompts:
            computed.append(self.ask(prompt))
            device.append(self.ask(prompt, "device"))
        time.sleep(2)  # what was computed last is still being copied out
        host = [self.ask(prompt, "host") for prompt in self._prompts]
        return {"device": differences(computed, device), "host": differences(computed, host)}


def differences(truth: list[LogProbs], seen: list[LogProbs]) -> list[float]:
    """Of each prompt: how far the log-probabilities of its likeliest tokens are off, on average."""
    result = []
    for right, other in zip(truth, seen, strict=True):
        top = sorted(right, key=lambda token: -right[token])[:NUM_TOP]
        off = [abs(right[token] - other[token]) if token in other else MISSED for token in top]
        result.append(statistics.fmean(off))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--page", type=int, default=PAGE, help="slots in a page of the engine")
    parser.add_argument("--attention", default="triton", help="SGLang's attention backend")
    parser.add_argument("--ranks", type=int, default=1, help="GPUs")
    parser.add_argument("--graphs", action="store_true", help="decode steps as CUDA graphs")
    options = parser.parse_args()
    circumstances = {name: getattr(options, name) for name in ("page", "attention", "ranks")}
    if options.only:
        setup = Setup(
            DEVICE_TOKENS, has_disk=False, has_graphs=options.graphs, shape=SHAPE, **circumstances
        )
        run_alone(
            options.only, setup, lambda engine: Bench(engine, options.page).run(), write_weights
        )
        return
    right = measure("radixkv")
    os.environ[MISPLACES] = "1"
    control = statistics.fmean(measure("radixkv")["host"])
    device, host = (statistics.fmean(right[kind]) for kind in ("device", "host"))
    for kind in ("device", "host"):
        emit(
            f"parity.sglang.{kind}_difference",
            [statistics.fmean(right[kind])],
            "nats",
            baseline=round(device, 5),
            baseline_name="device hits",
            allowed=round(ALLOWED * device, 5),
            control=round(control, 3),
            prompts=NUM_PROMPTS,
            graphs=options.graphs,
            **circumstances,
        )
    if not host <= ALLOWED * device < control:
        raise SystemExit(f"host {host:.4f}, device {device:.4f}, control {control:.4f}")
    progress("  host hits are as near to what was computed as device hits are")


if __name__ == "__main__":
    main()
