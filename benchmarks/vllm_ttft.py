"""How long until the first token of a long prompt, when its KV is computed, on the GPU, in memory
or on disk, in vLLM?

    python benchmarks/vllm_ttft.py              # on a machine with a GPU and vLLM

radixkv, radixkv with loads that no batch ever waits for, and vLLM's own offloading as the peer, on
the same prompts, one at a time; all three live at once and take turns. Before a prompt is asked for
from memory the device is made to forget all. How many of its tokens were found is checked in each
answer: a time whose tokens came from elsewhere is an error, not a row.

    stall      how long a request that is being decoded waits for its next token while a hit of
               32,768 tokens comes in
"""

from __future__ import annotations

import argparse
import random
import time

from cost_rule import fetch_always
from disk_rate import read_gbps
from engine_process import Times, add, add_options, emit_beside, measured_in_turns, take_turn
from harness import emit, progress
from vllm_engine import BLOCK, CONNECTORS, Engine, Setup, run_alone

LENGTHS = (8192, 32768, 65536, 100_000)
STALL_LENGTH = 32768
ROUNDS = 7
DEVICE_TOKENS = 120_000
COMPARED = ("radixkv", "radixkv-async", "native")
NUM_WARM_UP = 20  # tokens decoded before the hit comes in


class Bench:
    """One engine, and the times of its first tokens."""

    def __init__(self, connector: str, engine: Engine) -> None:
        self._connector = connector
        self._engine = engine
        self._random = random.Random(3)

    def prompt(self, num_tokens: int) -> list[int]:
        return [self._random.randrange(3, 128_000) for _ in range(num_tokens)]

    def first_token_ms(self, prompt: list[int], source: str | None = None) -> float:
        """Time to the first token; all of it but what must be computed must come from `source`."""
        began = time.perf_counter()
        answer = self._engine.ask(prompt)
        elapsed_ms = (time.perf_counter() - began) * 1e3
        found = answer.num_cached_tokens or 0
        least = (len(prompt) - 1) // BLOCK * BLOCK if source else 0
        if not least <= found <= (len(prompt) if source else 0):
            raise RuntimeError(f"{least} tokens from {source} expected, got {found}")
        progress(f"    {len(prompt)} {source or 'cold'}: {elapsed_ms:.1f} ms")
        return elapsed_ms

    def run(self) -> Times:
        times: Times = {}
        for length in (16384, 4096, 2048):  # compiles the kernels
            self.first_token_ms(self.prompt(length))
        prompts = {length: self.prompt(length) for length in LENGTHS}
        for length, prompt in prompts.items():
            times[f"{length}.cold"] = [self.first_token_ms(prompt)]
        self._engine.settle()
        for _ in range(ROUNDS):
            take_turn(times)
            for length, prompt in prompts.items():
                self._engine.forget_on_device()
                host_ms = self.first_token_ms(prompt, "host")
                device_ms = self.first_token_ms(prompt, "device")
                add(times, {f"{length}.host": host_ms, f"{length}.device": device_ms})
            add(times, {f"{STALL_LENGTH}.stall": self.stall_ms(prompts[STALL_LENGTH])})
        if self._connector == "radixkv":
            times |= self.from_disk(prompts)
        return times

    def from_disk(self, prompts: dict[int, list[int]]) -> Times:
        self._engine.settle()  # the disk is behind the memory
        self._engine.forget_in_memory()
        times: Times = {}
        for length, prompt in prompts.items():
            before = self._engine.fetched_tokens
            times[f"{length}.disk"] = [self.first_token_ms(prompt, "disk")]
            if self._engine.fetched_tokens - before < length - BLOCK:
                raise RuntimeError(f"{length} tokens did not come from disk")
        times["disk.read_gbps"] = [read_gbps(self._engine.disk_folder)]
        return times

    def stall_ms(self, hit: list[int]) -> float:
        """The longest wait of a decoding request between two tokens, while `hit` comes in."""
        self._engine.forget_on_device()
        decoding = self._engine.submit(self.prompt(64), 4096)
        num_seen, last, longest = 0, time.perf_counter(), 0.0
        hit_id = None
        while True:
            for output in self._engine.step():
                now = time.perf_counter()
                if output.request_id == hit_id:
                    self._engine.abort(decoding)
                    progress(f"    stall: {longest * 1e3:.1f} ms")
                    return longest * 1e3
                if output.request_id != decoding:
                    continue
                num_seen += 1
                longest = max(longest, now - last) if hit_id else 0.0
                last = now
            if num_seen >= NUM_WARM_UP and hit_id is None:
                hit_id = self._engine.submit(hit, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, CONNECTORS)
    options = parser.parse_args()
    only = options.only
    if only:
        fetch_always()
        setup = Setup(DEVICE_TOKENS, has_disk=only == "radixkv")
        run_alone(only, setup, lambda engine: Bench(only, engine).run())
        return
    with measured_in_turns(COMPARED, options.minutes) as values:
        for name, ours in values["radixkv"].items():
            peers = {
                "vLLM's offloading": values["native"].get(name, []),
                "radixkv, loads: async": values["radixkv-async"].get(name, []),
            }
            if name.endswith("_gbps"):
                emit(f"ttft.vllm.{name}", ours, "GB/s")
                continue
            emit_beside(f"ttft.vllm.{name}_ms", ours, "ms", peers, graphs=False)


if __name__ == "__main__":
    main()
