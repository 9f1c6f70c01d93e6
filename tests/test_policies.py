"""Which chunk leaves first, policy by policy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from index_stories import CHUNK_BYTES, tokens

from radixkv import RadixIndex
from radixkv.config import POLICIES, Policy

admissions = itertools.count(1)


def make_index(policy: Policy, chunk_tokens: int = 2) -> RadixIndex:
    return RadixIndex(chunk_tokens=chunk_tokens, memory_bytes=100 * CHUNK_BYTES, policy=policy)


def store(index: RadixIndex, *texts: str) -> None:
    for text in texts:
        index.insert(tokens(text), time=next(admissions))


def find(index: RadixIndex, text: str, count: int = 1) -> None:
    for _ in range(count):
        index.acquire(tokens(text), time=next(admissions)).close()


def leaving_order(index: RadixIndex, *texts: str) -> list[str]:
    """The texts in the order in which their last chunk goes."""
    gone: list[str] = []
    while len(gone) < len(texts):
        assert len(index.evict_units("memory", 1)) == 1
        gone += [
            text
            for text in texts
            if text not in gone and index.match(tokens(text)).num_tokens < len(text)
        ]
    return gone


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("fifo", ["aa", "bb", "cc"]),
        ("lru", ["bb", "aa", "cc"]),
        ("lfu", ["bb", "cc", "aa"]),
        ("slru", ["bb", "aa", "cc"]),
        ("reuse", ["bb", "aa", "cc"]),
    ],
)
def test_what_was_found_twice_long_ago_and_once_of_late(policy, order):
    index = make_index(policy)
    store(index, "aa", "bb", "cc")
    find(index, "aa", 2)
    for _ in range(20):
        next(admissions)
    find(index, "cc")

    assert leaving_order(index, "aa", "bb", "cc") == order


def test_reuse_gives_time_for_every_time_that_a_text_was_found():
    index = make_index("reuse")
    store(index, "aa")
    find(index, "aa", 3)  # idle for twice as long as what was found once
    store(index, "bb", "cc", "dd", "ee", "ff")

    assert leaving_order(index, "aa", "bb", "cc", "dd", "ee", "ff")[:2] == ["bb", "cc"]


def test_reuse_forgets_in_the_end():
    index = make_index("reuse")
    store(index, "aa")
    find(index, "aa", 3)
    for _ in range(100):
        next(admissions)
    store(index, "bb", "cc")

    assert leaving_order(index, "aa", "bb", "cc") == ["aa", "bb", "cc"]


def test_a_prefix_counts_the_prompts_that_share_it():
    index = make_index("lfu")
    store(index, "aabb", "aacc", "aadd", "eeff")
    find(index, "eeff")

    assert leaving_order(index, "aabb", "aacc", "aadd", "eeff", "aa", "ee") == [
        *("aabb", "aacc", "aadd"),
        *("eeff", "ee", "aa"),
    ]


def test_a_conversation_that_goes_on_counts_each_turn_once():
    index = make_index("lfu")
    for end in range(2, 13, 2):
        find(index, "abcdefghijkl"[:end])
        store(index, "abcdefghijkl"[:end])
    store(index, "xx")
    find(index, "xx", 2)

    assert leaving_order(index, "ab", "xx") == ["ab", "xx"]


def test_cost_keeps_late_tokens_longer():
    early = np.arange(512, dtype=np.uint32)
    late = np.arange(32 * 1024, dtype=np.uint32) + 1000
    index = RadixIndex(chunk_tokens=512, memory_bytes=1 << 20, policy="cost")
    index.insert(late, time=1)
    index.insert(early, time=10)
    index.insert(early + np.uint32(90_000), time=41)

    first = index.evict_units("memory", 1)

    # Idle for 31 admissions at position 0; the late one for 40, at nearly twice the cost.
    assert first["span"].tolist() == [0]


def test_every_name_of_the_settings_is_a_policy():
    for policy in POLICIES:
        assert make_index(policy).stats().chunks == 0


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="policy: expected one of reuse, lru.*, got mru"):
        RadixIndex(policy="mru")


def count_hits(policy: Policy, num_rounds: int = 20) -> int:
    """200 texts that are asked for twice in a row and then not for long, with 4,000 between that
    nobody asks for again. Counts the first of the two.
    """
    index = RadixIndex(chunk_tokens=2, memory_bytes=1000 * 4096, policy=policy)  # 1,000 chunks
    fresh = itertools.count(1000)
    num_hits = 0
    for _ in range(num_rounds):
        for token in [*range(200), *itertools.islice(fresh, 4000)]:
            text = np.array([token, token])
            for is_first in (True, False) if token < 200 else (True,):
                with index.acquire(text, time=next(admissions)) as handle:
                    num_hits += is_first and handle.num_tokens == 2
                index.insert(text, time=next(admissions))
    return num_hits


@pytest.mark.parametrize("policy", ["arc", "reuse"])
def test_it_learns_from_what_comes_back_after_it_left(policy):
    assert count_hits("lru") == 0
    assert count_hits(policy) >= 200 * 15


def play(policy: Policy, seed: int) -> RadixIndex:
    """Prompts of a few families, some found again, in a tier that has not room for all."""
    random = np.random.default_rng(seed)
    index = RadixIndex(chunk_tokens=2, memory_bytes=60 * CHUNK_BYTES, policy=policy)
    for time in range(1, 600):
        family, length = int(random.zipf(1.3)) % 40, int(random.integers(1, 16))
        text = np.arange(length) + 100 * family
        index.acquire(text, time=time).close()
        index.insert(text, time=time)
        index.evict_units("memory", int(random.integers(0, 3)))
        index.check_invariants()
    return index


@pytest.mark.parametrize("policy", ["arc", "reuse"])
@pytest.mark.parametrize("seed", range(3))
def test_what_learns_does_the_same_on_every_replica(policy, seed):
    one, other = play(policy, seed), play(policy, seed)

    assert one.state_hash() == other.state_hash()
    assert one.stats().memory.evicted_chunks > 500
    assert one.state_hash() != play("lru", seed).state_hash()
