"""Runs that are kept anywhere, against brute force, on texts that share and repeat themselves."""

from __future__ import annotations

import itertools
import random
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_stories import spill_all

from radixkv import RadixIndex
from radixkv.commands import NO_EXTENT, Tokens

MIN_LENGTH = 8
UNIT_BYTES = 4096  # of every chunk here
Prompt = list[int]


def make_index(chunk_tokens: int = 4, memory_chunks: int = 10_000, min_length: int = MIN_LENGTH):
    index = RadixIndex(chunk_tokens=chunk_tokens, memory_bytes=memory_chunks * UNIT_BYTES)
    index.index_runs(min_length)
    return index


def array(prompt: Prompt) -> Tokens:
    return np.array(prompt, np.uint32)


def kept_prompts(index: RadixIndex, prompts: list[Prompt], namespace: int = 0) -> list[Prompt]:
    """What of each prompt is kept now: every token of the index is in one of these."""
    return [p[: index.match(array(p), namespace).num_tokens] for p in prompts]


def brute_force(asked: Prompt, kept: list[Prompt], min_length: int) -> list[tuple[int, int]]:
    """(first, number of tokens) of the longest runs."""
    ends = []
    for first in range(len(asked)):
        longest = 0
        for prompt in kept:
            for start in range(len(prompt)):
                count = 0
                while (
                    first + count < len(asked)
                    and start + count < len(prompt)
                    and asked[first + count] == prompt[start + count]
                ):
                    count += 1
                longest = max(longest, count)
        ends.append(first + longest)
    return [
        (first, end - first)
        for first, end in enumerate(ends)
        if end - first >= min_length and (first == 0 or ends[first - 1] < end)
    ]


def check(
    index: RadixIndex,
    asked: Prompt,
    prompts: list[Prompt],
    namespace: int = 0,
    *,
    may_be_cut: bool = False,  # of texts that repeat themselves in too many places to look at
) -> None:
    assert index.wait_for_runs()
    kept = kept_prompts(index, prompts, namespace)

    found = index.find_runs(array(asked), namespace=namespace)

    assert found.num_waiting == 0
    runs = list(zip(found.first_tokens.tolist(), found.num_tokens.tolist(), strict=True))
    expected = brute_force(asked, kept, MIN_LENGTH)
    if found.truncated:
        assert may_be_cut
        for first, count in runs:
            assert any(at <= first and first + count <= at + most for at, most in expected)
    else:
        assert runs == expected
    for number, (first, num_tokens) in enumerate(runs):
        position = int(found.positions[number])
        run = asked[first : first + num_tokens]
        assert any(prompt[position : position + num_tokens] == run for prompt in kept)
        slices = found.slices(number)
        assert slices["count"].sum() == num_tokens
        assert slices["span"][0] * index.chunk_tokens + slices["first"][0] == position
        assert ((slices["memory_offset"] != NO_EXTENT) | (slices["disk_offset"] != NO_EXTENT)).all()


# --- Stories ---


def test_a_run_is_found_behind_other_text():
    index = make_index()
    index.insert(array([1, 2, 3, *range(100, 130), 4]))

    assert index.wait_for_runs()

    found = index.find_runs(array([7, 8, *range(100, 130), 9]))

    assert found.first_tokens.tolist() == [2]
    assert found.num_tokens.tolist() == [30]
    assert found.positions.tolist() == [3]


def test_nothing_is_found_unless_asked_for():
    with pytest.raises(ValueError, match="find_runs: expected an index that index_runs"):
        RadixIndex().find_runs(array([1]))


# --- Against brute force ---


def pieces() -> st.SearchStrategy[Prompt]:
    """Text that is random, constant, periodic, or of a few templates."""
    few = st.integers(0, 2)
    constant = st.tuples(few, st.integers(1, 60)).map(lambda p: [p[0]] * p[1])
    periodic = st.tuples(st.lists(few, min_size=1, max_size=4), st.integers(1, 25)).map(
        lambda p: p[0] * p[1]
    )
    template = st.integers(0, 3).map(lambda n: [10 + n, *range(100 * n, 100 * n + 12)])
    fresh = st.lists(st.integers(0, 5), max_size=12)
    return st.one_of(constant, periodic, template, fresh)


texts = st.lists(pieces(), max_size=5).map(lambda parts: [*itertools.chain(*parts)][:150])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 200), texts), min_size=1, max_size=6),
    texts,
    st.sampled_from([1, 3, 4, 16]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_runs_are_those_of_brute_force(stored, asked, chunk_tokens):
    index = make_index(chunk_tokens)
    prompts: list[Prompt] = [[]]
    for number, (base, end, text) in enumerate(stored):
        prompts.append(prompts[base % len(prompts)][:end] + text)
        index.insert(array(prompts[-1]), time=number)

    check(index, asked, prompts, may_be_cut=True)
    check(index, prompts[-1] + asked, prompts, may_be_cut=True)


@pytest.mark.parametrize("seed", range(12))
def test_runs_follow_what_comes_and_goes(seed):
    rng = random.Random(seed)
    index = RadixIndex(4, memory_bytes=60 * UNIT_BYTES, disk_bytes=240 * UNIT_BYTES)
    index.index_runs(MIN_LENGTH)
    spaces = [0, index.namespace(b"another model...")]
    prompts: dict[int, list[Prompt]] = {space: [[]] for space in spaces}
    for number in range(60):
        space = rng.choice(spaces)
        start = rng.choice(prompts[space])[: rng.randrange(40)]
        text = rng.choice(prompts[rng.choice(spaces)])[rng.randrange(9) :][: rng.randrange(40)]
        prompt = start + text + [rng.randrange(4)] * rng.randrange(20)
        prompts[space].append(prompt)
        index.insert(array(prompt), space, time=number)
        if rng.random() < 0.3:
            index.evict_units("memory", rng.randrange(20))
        if rng.random() < 0.2:
            spill_all(index)
        if rng.random() < 0.1:
            index.evict_units("disk", rng.randrange(40))
        if rng.random() < 0.1:
            index.drop(array(prompt[:3]), space)
        if rng.random() < 0.05:
            index.clear_memory()
        if rng.random() < 0.5:
            assert index.wait_for_runs()
        if number % 5 == 4:
            asked = [*rng.choice(prompts[0]), 9, *rng.choice(prompts[spaces[1]])]
            for each in spaces:
                check(index, asked, prompts[each], namespace=each)


def test_what_was_kept_before_is_found_too():
    index = RadixIndex(chunk_tokens=4)
    index.insert(array(list(range(50))))

    index.index_runs(MIN_LENGTH)

    check(index, [99, *range(20, 40)], [list(range(50))])


def test_a_chunk_hands_over_what_it_shares():
    index = make_index(chunk_tokens=32)
    index.insert(array([*range(30), 100, 101]), time=1)
    index.insert(array([*range(30), 200, 201]), time=2)
    assert index.wait_for_runs()

    index.evict_units("memory", 1)

    check(index, [9, *range(30), 100], [[*range(30), 100, 101], [*range(30), 200, 201]])


def test_a_chunk_on_its_way_does_not_count():
    index = make_index()
    prompt = array(list(range(32)))
    chunks, _ = index.reserve(prompt, time=1)
    index.complete_store(chunks[4:], 4)
    assert index.wait_for_runs()

    second_half = index.find_runs(prompt)
    index.complete_store(chunks[:4], 4)
    assert index.wait_for_runs()
    whole = index.find_runs(prompt)

    assert (second_half.first_tokens.tolist(), second_half.num_tokens.tolist()) == ([16], [16])
    assert (whole.first_tokens.tolist(), whole.num_tokens.tolist()) == ([0], [32])


def test_ids_out_of_range_part_what_is_asked():
    index = make_index()
    index.insert(array(list(range(40))))
    assert index.wait_for_runs()

    found = index.find_runs(np.array([*range(10), -1, *range(10, 20), 1 << 40], np.int64))

    assert found.first_tokens.tolist() == [0, 11]
    assert found.num_tokens.tolist() == [10, 10]


def test_more_places_than_are_kept_are_told():
    index = make_index()
    shared = list(range(1000, 1020))
    for number in range(600):
        index.insert(array([number, *shared, number]), time=number)
    assert index.wait_for_runs()

    found = index.find_runs(array([5000, *shared]))

    assert found.truncated
    assert found.num_tokens.tolist() == [20]


def test_a_run_is_empty_once_its_last_chunk_has_gone():
    index = make_index()
    index.insert(array(list(range(32))))
    assert index.wait_for_runs()
    found = index.find_runs(array(list(range(32))))

    index.drop(array([0]))

    assert len(found.slices(0)) == 0
    assert len(index.find_runs(array(list(range(32))))) == 0


def test_a_shorter_run_than_was_prepared_for_is_refused():
    index = make_index()

    with pytest.raises(ValueError, match="min_length: expected at least 8, got 7"):
        index.find_runs(array([1]), 7)
    with pytest.raises(ValueError, match="min_length: expected 8 … 4096, got 3"):
        index.index_runs(3)


def test_what_left_makes_room():
    """Ten times what memory holds comes and goes."""
    rng = np.random.default_rng(1)
    index = RadixIndex(16, memory_bytes=2000 * UNIT_BYTES)
    index.index_runs(64)
    for number in range(500):
        index.insert(rng.integers(0, 1 << 30, 640, dtype=np.uint32), time=number)
    assert index.wait_for_runs()

    assert index.stats().chunks == 2000
    assert index.run_stats().num_bytes < 4 * index.stats().tokens


def test_no_run_is_claimed_that_is_not_kept_while_others_change_the_index():
    rng = np.random.default_rng(2)
    index = make_index(chunk_tokens=16, memory_chunks=300, min_length=32)
    bases = [rng.integers(0, 50_000, 200, dtype=np.uint32) for _ in range(20)]
    stop = threading.Event()

    def change() -> None:
        mine = np.random.default_rng(3)
        number = 0
        while not stop.is_set():
            first, second = mine.integers(0, len(bases), 2)
            cut = int(mine.integers(0, 200))
            index.insert(np.concatenate([bases[first][:cut], bases[second]]), time=number)
            number += 1
            if number % 7 == 0:
                index.evict_units("memory", 20)
            if number % 50 == 0:
                index.drop(bases[first][:10])

    writer = threading.Thread(target=change)
    writer.start()
    asked = np.concatenate([base[50:150] for base in bases])  # never kept in a row
    num_found = 0
    try:
        while num_found < 1000:
            found = index.find_runs(asked)
            ends = found.first_tokens + found.num_tokens
            num_found += len(found)
            assert (found.num_tokens >= 32).all()
            assert (found.first_tokens // 100 == (ends - 1) // 100).all()
    finally:
        stop.set()
        writer.join()
    index.check_invariants()
