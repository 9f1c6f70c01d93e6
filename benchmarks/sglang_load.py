"""How many requests a second does SGLang serve, with radixkv, with HiCache and with neither?

    python benchmarks/sglang_load.py            # on a machine with a GPU and SGLang
    python benchmarks/sglang_load.py --loads reuse

Two loads, both closed: a user asks again as soon as the last answer is there.

    reuse      32 users over 8 shared documents; at each turn a user sends the whole conversation
               and 512 new tokens. Together four times what the device keeps
    no reuse   prompts that share nothing: what does the cache cost where it cannot help?

The first turn of every user is not counted: nothing can be reused in it. Decode steps run as CUDA
graphs: launched kernel by kernel they measure the host's cores, and those of a shared host have
phases in which they are half as fast (`cpu_loop_ms` says how fast a loop in Python was meanwhile).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from engine_process import (
    Times,
    add,
    add_options,
    emit_beside,
    measured_in_turns,
    percentile,
    take_turn,
    time_a_loop,
)
from harness import progress
from load_shape import (
    ANSWER_TOKENS,
    DEVICE_TOKENS,
    DOCUMENT_TOKENS,
    FRESH_PROMPTS,
    FRESH_TOKENS,
    NUM_DOCUMENTS,
    NUM_TURNS,
    NUM_USERS,
    TURN_TOKENS,
    rounds_of,
)
from sglang_engine import CACHES, Setup, run_alone

LOADS = ("no-reuse", "reuse")
PEERS = ("hicache", "plain")


@dataclass
class Tally:
    """What the answers of one load said."""

    first_token_ms: list[float] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0

    def add(self, first_token_ms: float, info: dict[str, Any]) -> None:
        self.first_token_ms.append(first_token_ms)
        self.prompt_tokens += info["prompt_tokens"]
        details = info.get("cached_tokens_details") or {"device": info["cached_tokens"]}
        for source in ("device", "host", "storage"):
            self.sources[source] = self.sources.get(source, 0) + details.get(source, 0)


class Bench:
    """One engine under load.

    Args:
        engine: SGLang's.
        num_rounds: Of each load.
    """

    def __init__(self, engine: Any, num_rounds: dict[str, int]) -> None:
        self._engine = engine
        self._num_rounds = num_rounds
        self._random = random.Random(7)

    def tokens(self, count: int) -> list[int]:
        return [self._random.randrange(3, 128_000) for _ in range(count)]

    async def ask(self, prompt: list[int], tally: Tally) -> list[int]:
        """The answer's tokens."""
        began = time.perf_counter()
        options = {"temperature": 0, "max_new_tokens": ANSWER_TOKENS, "ignore_eos": True}
        first_token_ms = 0.0
        last: dict[str, Any] = {}
        stream = await self._engine.async_generate(
            input_ids=prompt, sampling_params=options, stream=True
        )
        async for answer in stream:
            first_token_ms = first_token_ms or (time.perf_counter() - began) * 1e3
            last = answer
        tally.add(first_token_ms, last["meta_info"])
        return list(last["output_ids"])

    async def conversation(self, history: list[int], turns: list[list[int]], tally: Tally) -> None:
        for turn in turns:
            history += turn
            history += await self.ask(history, tally)

    async def reuse(self) -> dict[str, float]:
        documents = [self.tokens(DOCUMENT_TOKENS) for _ in range(NUM_DOCUMENTS)]
        histories = [list(documents[user % NUM_DOCUMENTS]) for user in range(NUM_USERS)]
        first = [[self.tokens(TURN_TOKENS)] for _ in histories]
        rest = [[self.tokens(TURN_TOKENS) for _ in range(NUM_TURNS - 1)] for _ in histories]
        await self.together(histories, first, Tally())
        tally = Tally()
        seconds = await self.together(histories, rest, tally)
        progress(f"    reuse: {seconds:.1f} s, {tally.sources} of {tally.prompt_tokens}")
        return {
            "reuse.turns_per_s": NUM_USERS * (NUM_TURNS - 1) / seconds,
            "reuse.first_token_p50_ms": percentile(tally.first_token_ms, 50),
            "reuse.first_token_p99_ms": percentile(tally.first_token_ms, 99),
            "reuse.computed_tokens": tally.prompt_tokens - sum(tally.sources.values()),
            **{f"reuse.{source}_tokens": count for source, count in tally.sources.items()},
        }

    async def together(
        self, histories: list[list[int]], turns: list[list[list[int]]], tally: Tally
    ) -> float:
        """Seconds for all users' turns."""
        began = time.perf_counter()
        users = zip(histories, turns, strict=True)
        await asyncio.gather(*(self.conversation(*user, tally) for user in users))
        return time.perf_counter() - began

    async def no_reuse(self) -> float:
        """Prompts a second."""
        prompts = [self.tokens(FRESH_TOKENS) for _ in range(FRESH_PROMPTS)]
        tally = Tally()
        began = time.perf_counter()
        await asyncio.gather(*(self.ask(prompt, tally) for prompt in prompts))
        rate = FRESH_PROMPTS / (time.perf_counter() - began)
        if sum(tally.sources.values()):
            raise RuntimeError(f"nothing to reuse, but {tally.sources}")
        progress(f"    no reuse: {rate:.2f} prompts a second")
        return rate

    def run(self) -> Times:
        loop = self._engine.loop
        loop.run_until_complete(self.no_reuse())  # compiles the kernels
        times: Times = {}
        for _ in range(self._num_rounds["no-reuse"]):
            take_turn(times)
            add(times, {"no_reuse.prompts_per_s": loop.run_until_complete(self.no_reuse())})
        for _ in range(self._num_rounds["reuse"]):
            take_turn(times)
            add(times, {"cpu_loop_ms": time_a_loop()} | loop.run_until_complete(self.reuse()))
        return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, CACHES)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS, help="(all)")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="(all)")
    options = parser.parse_args()
    only = options.only
    if only:
        num_rounds = rounds_of(options.loads, is_plain=only == "plain")
        setup = Setup(DEVICE_TOKENS, has_disk=False, has_graphs=True)
        run_alone(only, setup, lambda engine: Bench(engine, num_rounds).run())
        return
    with measured_in_turns(("radixkv", *options.peers), options.minutes) as values:
        for name, ours in values["radixkv"].items():
            order = ("plain", "hicache") if name.startswith("no_reuse") else PEERS
            peers = [peer for peer in order if peer in options.peers]
            unit = name.rpartition("_")[2]
            emit_beside(
                f"load.sglang.{name}",
                ours,
                "1/s" if unit == "s" else unit,
                {peer: values[peer].get(name, []) for peer in peers},
            )


if __name__ == "__main__":
    main()
