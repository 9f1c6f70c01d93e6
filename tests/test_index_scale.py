"""The index with many siblings, long prompts and several threads."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from radixkv import RadixIndex

NUM_SIBLINGS = 20_000


def siblings(num_tokens: int) -> list[np.ndarray]:
    """Prompts that part inside one chunk."""
    prompts = np.zeros((NUM_SIBLINGS, num_tokens), np.uint32)
    prompts[:, 32:] = np.arange(1, NUM_SIBLINGS + 1)[:, None]
    return list(prompts)


@pytest.mark.parametrize("num_tokens", [64, 50, 40])
def test_the_number_of_siblings_does_not_slow_a_call_down(num_tokens):
    index = RadixIndex()
    begin = time.monotonic()

    for number, prompt in enumerate(siblings(num_tokens)):
        index.insert(prompt, time=number)
        assert index.match(prompt[:40]).num_tokens == 40
    index.evict_units("memory", NUM_SIBLINGS)

    # 0.1 s; were each call to look at all siblings, a minute.
    assert time.monotonic() - begin < 10
    assert index.stats().chunks == 0


def test_a_hundred_thousand_chunks_are_restored_in_one_go():
    count = 100_000
    rng = np.random.default_rng(3)
    index = RadixIndex(token_bytes=1024, memory_bytes=0, disk_bytes=count * 65536 * 2)
    parents = np.arange(count) - 500  # 500 prompts, written in turn

    index.restore_disk(
        parent_index=np.where(parents < 0, -1, parents),
        num_tokens=np.full(count, 64, np.uint16),
        tokens=rng.integers(0, 128_000, count * 64, dtype=np.uint32),
        disk_offset=np.arange(count, dtype=np.uint32) * 16,
        num_units=np.full(count, 16, np.uint16),
        namespace_index=np.zeros(count, np.int32),
        digests=[bytes(16)],
        time=np.arange(count, dtype=np.uint64),
    )

    assert index.stats().disk.ready_chunks == count
    assert index.stats().nodes == 501


def test_matches_run_beside_a_writer():
    index = RadixIndex()
    rng = np.random.default_rng(4)
    prompt = rng.integers(0, 128_000, 70_000, dtype=np.uint32)  # long enough to free the GIL
    index.insert(prompt)
    done = threading.Event()
    lengths: list[int] = []

    def read() -> None:
        while not done.is_set():
            lengths.append(index.match(prompt).num_tokens)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for position in range(69_000, 1_000, -1_000):
        index.insert(np.append(prompt[:position], rng.integers(0, 99, 100, dtype=np.uint32)))
        index.acquire(prompt).close()
    done.set()
    for reader in readers:
        reader.join()

    assert set(lengths) == {70_000}
    index.check_invariants()
