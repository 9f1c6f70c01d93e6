"""How much does vLLM serve in a second: with radixkv, with its own offloading, with neither?

    python benchmarks/vllm_load.py              # on a machine with a GPU and vLLM
    python benchmarks/vllm_load.py --loads no-reuse --peers none

Two closed loads (a user asks again as soon as the last answer is there), and one that is full:

    reuse      32 users over 8 shared documents; at each turn a user sends the whole conversation
               and 512 new tokens. Together four times what the device keeps
    no reuse   prompts that share nothing: what does the connector cost where it cannot help?
    steps      128 requests that are decoded: how long does vLLM's scheduler take for a step, with
               what the connector does in it, and how long the whole step? In turns on one core,
               since a host's cores are not equally fast

The first turn of every user is not counted: nothing can be reused in it. Decode steps run as CUDA
graphs: launched kernel by kernel they measure the host's cores, and those of a shared host have
phases in which they are half as fast (`cpu_loop_ms` says how fast a loop in Python was meanwhile).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
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
from vllm_engine import Engine, Setup, run_alone

NUM_DECODING = 128
DECODING_TOKENS = 128  # of each prompt, and as many of its answer
NUM_STEPS = 60  # of a round
COMPARED = ("radixkv", "native", "none")
LOADS = ("no-reuse", "steps", "reuse")


@dataclass
class Tally:
    """What the answers of one load said."""

    first_token_ms: list[float] = field(default_factory=list)
    cached_tokens: int = 0
    prompt_tokens: int = 0


@dataclass
class User:
    """A conversation: what was said, and what is to be said yet."""

    history: list[int]
    turns: list[list[int]]
    asked_at: float = 0.0
    has_answer: bool = False

    def next_prompt(self) -> list[int]:
        self.history = self.history + self.turns.pop(0)
        self.has_answer = False
        self.asked_at = time.perf_counter()
        return self.history


class Bench:
    """One engine under load.

    Args:
        engine: vLLM.
        num_rounds: Of each load.
    """

    def __init__(self, engine: Engine, num_rounds: dict[str, int]) -> None:
        self._engine = engine
        self._num_rounds = num_rounds
        self._random = random.Random(7)

    def tokens(self, count: int) -> list[int]:
        return [self._random.randrange(3, 128_000) for _ in range(count)]

    def serve(self, users: list[User], tally: Tally) -> float:
        """Seconds until all users have said all they wanted."""
        began = time.perf_counter()
        asking = {self._engine.submit(user.next_prompt(), ANSWER_TOKENS): user for user in users}
        while asking:
            for output in self._engine.step():
                user = asking[output.request_id]
                if not user.has_answer:
                    user.has_answer = True
                    tally.first_token_ms.append((time.perf_counter() - user.asked_at) * 1e3)
                if not output.finished:
                    continue
                del asking[output.request_id]
                tally.cached_tokens += output.num_cached_tokens or 0
                tally.prompt_tokens += len(user.history)
                user.history = user.history + list(output.outputs[0].token_ids)
                if user.turns:
                    asking[self._engine.submit(user.next_prompt(), ANSWER_TOKENS)] = user
        return time.perf_counter() - began

    def reuse(self) -> dict[str, float]:
        documents = [self.tokens(DOCUMENT_TOKENS) for _ in range(NUM_DOCUMENTS)]
        users = [
            User(documents[number % NUM_DOCUMENTS], [self.tokens(TURN_TOKENS)])
            for number in range(NUM_USERS)
        ]
        self.serve(users, Tally())
        for user in users:
            user.turns = [self.tokens(TURN_TOKENS) for _ in range(NUM_TURNS - 1)]
        tally = Tally()
        seconds = self.serve(users, tally)
        progress(f"    reuse: {seconds:.1f} s, {tally.cached_tokens} of {tally.prompt_tokens}")
        return {
            "reuse.turns_per_s": NUM_USERS * (NUM_TURNS - 1) / seconds,
            "reuse.first_token_p50_ms": percentile(tally.first_token_ms, 50),
            "reuse.first_token_p99_ms": percentile(tally.first_token_ms, 99),
            "reuse.computed_tokens": tally.prompt_tokens - tally.cached_tokens,
        }

    def no_reuse(self) -> float:
        """Prompts a second."""
        users = [User([], [self.tokens(FRESH_TOKENS)]) for _ in range(FRESH_PROMPTS)]
        tally = Tally()
        rate = FRESH_PROMPTS / self.serve(users, tally)
        if tally.cached_tokens:
            raise RuntimeError(f"nothing to reuse, but {tally.cached_tokens} tokens were found")
        progress(f"    no reuse: {rate:.2f} prompts a second")
        return rate

    def steps(self, times: Times) -> None:
        """Adds of each round the median over its steps, while all requests are being decoded."""
        scheduler = self._engine.scheduler
        watches = [Stopwatch(scheduler, name) for name in ("schedule", "update_from_output")]
        for _ in range(self._num_rounds["steps"]):
            take_turn(times)
            ids = [
                self._engine.submit(self.tokens(DECODING_TOKENS), 2 * NUM_STEPS)
                for _ in range(NUM_DECODING)
            ]
            seen: set[str] = set()
            while len(seen) < NUM_DECODING:
                seen |= {output.request_id for output in self._engine.step()}
            scheduling, whole = [], []
            for _ in range(NUM_STEPS):
                for watch in watches:
                    watch.seconds = 0.0
                began = time.perf_counter()
                self._engine.step()
                whole.append(time.perf_counter() - began)
                scheduling.append(sum(watch.seconds for watch in watches))
            found = {
                "steps.scheduler_us": percentile(scheduling, 50) * 1e6,
                "steps.whole_ms": percentile(whole, 50) * 1e3,
            }
            progress(f"    steps: {found}")
            add(times, found)
            self._engine.abort(*ids)
        for watch in watches:
            watch.stop()

    def run(self) -> Times:
        self.no_reuse()  # compiles the kernels
        times: Times = {}
        for _ in range(self._num_rounds["no-reuse"]):
            take_turn(times)
            add(times, {"no_reuse.prompts_per_s": self.no_reuse()})
        with on_one_core():
            self.steps(times)
        for _ in range(self._num_rounds["reuse"]):
            take_turn(times)
            add(times, {"cpu_loop_ms": time_a_loop()} | self.reuse())
        return times


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """This thread runs on the same core in every engine's process."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


class Stopwatch:
    """Counts the time that a method of an object takes, until it is stopped."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds = 0.0
        self._owner, self._name = owner, name
        self._method: Callable[..., Any] = getattr(owner, name)
        setattr(owner, name, self._timed)

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._method(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began

    def stop(self) -> None:
        setattr(self._owner, self._name, self._method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, COMPARED)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS, help="(all)")
    parser.add_argument(
        "--peers", nargs="+", choices=COMPARED[1:], default=COMPARED[1:], help="(all)"
    )
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    options = parser.parse_args()
    only = options.only
    if only:
        num_rounds = rounds_of(options.loads, is_plain=only == "none")
        setup = Setup(DEVICE_TOKENS, has_disk=False, has_graphs=not options.eager)
        run_alone(only, setup, lambda engine: Bench(engine, num_rounds).run())
        return
    with measured_in_turns(("radixkv", *options.peers), options.minutes) as values:
        for name, ours in values["radixkv"].items():
            order = ("native", "none") if name.startswith("reuse") else ("none", "native")
            peers = [peer for peer in order if peer in options.peers]
            unit = name.rpartition("_")[2]
            emit_beside(
                f"load.vllm.{name}",
                ours,
                "1/s" if unit == "s" else unit,
                {peer: values[peer].get(name, []) for peer in peers},
            )


if __name__ == "__main__":
    main()
