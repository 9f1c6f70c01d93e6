"""How long until the first token of a long prompt, when its KV is computed, on the GPU, in memory
or on disk?

    python benchmarks/sglang_ttft.py            # on a machine with a GPU and SGLang
    python benchmarks/sglang_ttft.py --graphs   # decode steps run as CUDA graphs

radixkv, and SGLang's own HiCache as the peer, on the same prompts, one at a time; both live at once
and take turns. The device keeps little more than the longest of them, so that going through them in
turn pushes each off the device before it is asked for again. Where a prompt's KV came from is
checked in each answer (`cached_tokens_details`): a time whose tokens came from elsewhere is an
error, not a row. Each turn begins with a short prompt that is not counted: until then the engine,
its core and the GPU were idle.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from cost_rule import fetch_always
from disk_rate import read_gbps
from engine_process import Times, add, add_options, emit_beside, measured_in_turns, take_turn
from harness import emit, progress
from sglang_engine import CACHES, PAGE, Setup, disk_folder, run_alone

LENGTHS = (8192, 32768, 65536, 100_000)
ROUNDS = 7
WAKING_TOKENS = 1024
DEVICE_TOKENS = 120_000
ONE_TOKEN = {"temperature": 0, "max_new_tokens": 1, "ignore_eos": True}


class Bench:
    """One engine, and the times of its first tokens."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._random = random.Random(3)

    def prompt(self, num_tokens: int) -> list[int]:
        return [self._random.randrange(3, 128_000) for _ in range(num_tokens)]

    def first_token_ms(self, prompt: list[int], source: str | None = None) -> float:
        """Time to the first token; every token that can be cached must come from `source`."""
        began = time.perf_counter()
        answer = self._engine.generate(input_ids=prompt, sampling_params=ONE_TOKEN)
        elapsed_ms = (time.perf_counter() - began) * 1e3
        wanted = (len(prompt) - 1) // PAGE * PAGE if source else 0
        details = answer["meta_info"].get("cached_tokens_details") or {}
        found = details.get(source, 0) if source else answer["meta_info"]["cached_tokens"]
        if found != wanted:
            raise RuntimeError(f"{wanted} tokens from {source} expected, got {details}")
        progress(f"    {len(prompt)} {source or 'cold'}: {elapsed_ms:.1f} ms")
        return elapsed_ms

    def run(self, with_disk: bool) -> Times:
        times: Times = {}
        for length in (4096, 2048):  # compiles the kernels
            self.first_token_ms(self.prompt(length))
        prompts = {length: self.prompt(length) for length in LENGTHS}
        for length, prompt in prompts.items():
            times[f"{length}.cold"] = [self.first_token_ms(prompt)]
        waking = self.prompt(WAKING_TOKENS)
        self.first_token_ms(waking)
        time.sleep(2)  # what was computed last is still being copied out
        for _ in range(ROUNDS):
            take_turn(times)
            self._engine.generate(input_ids=waking, sampling_params=ONE_TOKEN)
            for length, prompt in prompts.items():
                host_ms = self.first_token_ms(prompt, "host")
                device_ms = self.first_token_ms(prompt, "device")
                add(times, {f"{length}.host": host_ms, f"{length}.device": device_ms})
        if with_disk:
            time.sleep(15)
            self._engine.flush_cache()
            for length, prompt in prompts.items():
                times[f"{length}.disk"] = [self.first_token_ms(prompt, "storage")]
            times["disk.read_gbps"] = [read_gbps(disk_folder())]
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, CACHES)
    parser.add_argument("--graphs", action="store_true", help="decode steps as CUDA graphs")
    options = parser.parse_args()
    only, graphs = options.only, options.graphs
    if only:
        fetch_always()
        setup = Setup(DEVICE_TOKENS, has_graphs=graphs)
        run_alone(only, setup, lambda engine: Bench(engine).run(only == "radixkv"))
        return
    with measured_in_turns(("radixkv", "hicache"), options.minutes) as values:
        for name, ours in values["radixkv"].items():
            peers = {"HiCache": values["hicache"].get(name, [])}
            if name.endswith("_gbps"):
                emit(f"ttft.sglang.{name}", ours, "GB/s")
                continue
            emit_beside(f"ttft.sglang.{name}_ms", ours, "ms", peers, graphs=graphs)


if __name__ == "__main__":
    main()
