"""Matches from many threads while one writes: each sees the index before or after a call."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from radixkv import RadixIndex

CHUNK = 64
NUM_READERS = 4
PROMPT_TOKENS = 70_000  # so long that a walk frees the GIL
NUM_CHUNKS = -(-PROMPT_TOKENS // CHUNK)


def prompt(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50_000, PROMPT_TOKENS, dtype=np.uint32)


def run_together(*calls: Callable[[], None]) -> None:
    """Runs each in a thread of its own; raises what one of them raises."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], None]) -> None:
        try:
            start.wait()
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_matches_run_beside_a_writer():
    index = RadixIndex(CHUNK, memory_bytes=3 * NUM_CHUNKS * 4096)
    pinned, *others = (prompt(seed) for seed in range(5))
    index.insert(pinned, time=1)
    has_ended = threading.Event()
    seen: set[int] = set()

    def write() -> None:
        for number in range(60):
            other = others[number % len(others)]
            index.insert(other, time=number + 2)
            index.insert(np.concatenate([pinned[: 1000 + number], other[:500]]), time=number + 2)
            if number % 3 == 0:
                index.drop(other[:CHUNK])
        has_ended.set()

    def read() -> None:
        while not has_ended.is_set():
            assert index.match(pinned).num_tokens == PROMPT_TOKENS
            for other in others:
                found = index.match(other)
                assert 0 <= found.num_memory_tokens <= found.num_tokens <= PROMPT_TOKENS
                slices = found.slices()  # as the index is now: all of them, or none
                assert sum(slices["count"].tolist()) in (0, found.num_tokens)
                seen.add(found.num_tokens)

    with index.acquire(pinned):
        run_together(write, *[read] * NUM_READERS)

    index.check_invariants()
    assert {0, PROMPT_TOKENS} & seen


def test_handles_are_opened_and_closed_by_many_threads():
    index = RadixIndex(CHUNK, memory_bytes=2 * NUM_CHUNKS * 4096)
    prompts = [prompt(seed) for seed in range(3)]

    def use(first: int) -> None:
        for number in range(first, first + 30):
            tokens = prompts[number % len(prompts)]
            index.insert(tokens, time=number)
            with index.acquire(tokens, time=number) as handle:
                found = handle.num_tokens
                assert index.match(tokens).num_tokens >= found

    run_together(*(lambda first=first: use(first) for first in range(NUM_READERS)))

    assert index.stats().pins == 0
    index.check_invariants()
