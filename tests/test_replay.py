"""Replays of small traces, whose outcome can be counted by hand."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from radixkv.replay import Request, Setup, Trace, TraceError, ideal, optimum, read_trace, replay

CHUNK = 16
PROMPT_TOKENS = 10 * CHUNK


def trace_of(*prompts: list[int]) -> Trace:
    arrays = [np.array(prompt, np.uint32) for prompt in prompts]
    return Trace("test", [Request(array, len(array)) for array in arrays])


def prompt(seed: int, num_tokens: int = PROMPT_TOKENS) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(50_000) for _ in range(num_tokens)]


def setup(memory_tokens: int, disk_tokens: int = 0) -> Setup:
    return Setup(memory_tokens, disk_tokens, chunk_tokens=CHUNK)


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_conversation_finds_its_earlier_turns():
    turns = trace_of(prompt(1), prompt(1) + prompt(2), prompt(1) + prompt(2) + prompt(3))

    result = replay(turns, setup(100 * CHUNK))

    assert result.num_tokens == 6 * PROMPT_TOKENS
    assert result.memory_hit_tokens == 3 * PROMPT_TOKENS == ideal(turns)
    assert result.stored_tokens == 3 * PROMPT_TOKENS
    assert result.evicted_memory_chunks == 0


def test_a_match_ends_at_any_token():
    shared = prompt(1, 100)

    result = replay(trace_of([*shared, 1], [*shared, 2]), setup(100 * CHUNK))

    assert result.hit_tokens == 100


def test_memory_forgets_what_the_disk_still_has():
    three = trace_of(prompt(1), prompt(2), prompt(1))

    alone = replay(three, setup(PROMPT_TOKENS))
    with_disk = replay(three, setup(PROMPT_TOKENS, 4 * PROMPT_TOKENS))

    assert alone.hit_tokens == 0
    assert alone.evicted_memory_chunks == 2 * PROMPT_TOKENS // CHUNK
    assert (with_disk.memory_hit_tokens, with_disk.disk_hit_tokens) == (0, PROMPT_TOKENS)
    assert with_disk.spilled_tokens == 2 * PROMPT_TOKENS


def test_bytes_moved_are_those_of_the_layout():
    turns = trace_of(prompt(1), prompt(1))

    result = replay(turns, setup(100 * CHUNK))

    assert result.moved_bytes == 2 * PROMPT_TOKENS * 128 * 1024  # one store, one load


def test_the_optimum_keeps_what_comes_again():
    turns = trace_of(prompt(1), prompt(2), prompt(3), prompt(1))

    assert replay(turns, setup(PROMPT_TOKENS)).hit_tokens == 0
    assert optimum(turns, PROMPT_TOKENS) == ideal(turns) == PROMPT_TOKENS
    assert optimum(turns, PROMPT_TOKENS // 4) == PROMPT_TOKENS // 4


def best_by_trying_everything(prompts: list[list[int]], capacity: int) -> int:
    """The most hits over all choices of what to keep after each request."""

    def prefixes(one: list[int]) -> set[tuple[int, ...]]:
        return {tuple(one[: end + 1]) for end in range(len(one))}

    outcomes = {frozenset(): 0}
    for one in prompts:
        following: dict[frozenset, int] = {}
        for kept, hits in outcomes.items():
            now_hits = hits + len(kept & prefixes(one))
            candidates = sorted(kept | prefixes(one))
            for count in range(min(capacity, len(candidates)) + 1):
                for choice in itertools.combinations(candidates, count):
                    key = frozenset(choice)
                    following[key] = max(following.get(key, 0), now_hits)
        outcomes = following
    return max(outcomes.values())


@pytest.mark.parametrize("seed", range(20))
def test_the_optimum_is_the_best_of_all_choices(seed):
    rng = random.Random(seed)
    prompts = [[rng.randrange(2) for _ in range(rng.randint(1, 3))] for _ in range(5)]
    capacity = rng.randint(1, 3)

    assert optimum(trace_of(*prompts), capacity) == best_by_trying_everything(prompts, capacity)


def branching_trace(rng: random.Random) -> Trace:
    """Prompts that begin like an earlier one, cut anywhere."""
    known: list[list[int]] = [[]]
    for _ in range(60):
        start = rng.choice(known)[: rng.randrange(200)]
        known.append(start + prompt(rng.randrange(10), rng.randint(1, 80)))
    return trace_of(*known[1:])


@pytest.mark.parametrize("seed", range(10))
def test_no_replay_beats_the_optimum_nor_that_the_ideal(seed):
    rng = random.Random(seed)
    trace = branching_trace(rng)
    capacity = rng.randint(2, 30) * CHUNK

    result = replay(trace, setup(capacity))

    assert result.hit_tokens <= optimum(trace, capacity) <= ideal(trace)


def test_a_cache_that_has_room_for_all_finds_all():
    trace = branching_trace(random.Random(1))

    result = replay(trace, setup(2 * trace.num_tokens))

    # A tail that lacks at most four tokens is as good as kept, but for those.
    assert 0 <= ideal(trace) - result.hit_tokens <= 4 * len(trace.requests)


def test_block_ids_become_tokens_that_are_equal_where_they_are(tmp_path):
    path = write_lines(
        tmp_path / "t.jsonl",
        {"timestamp": 0, "input_length": 1024, "hash_ids": [7, 4_000_000_000]},
        {"timestamp": 1, "input_length": 1400, "hash_ids": [7, 4_000_000_000, 9]},
        {"timestamp": 2, "input_length": 600, "hash_ids": [7, 11]},
    )

    trace = read_trace(path)

    first, second, third = (trace.tokens(request) for request in trace.requests)
    assert (len(first), len(second), len(third)) == (1024, 1400, 600)
    assert (first == second[:1024]).all()
    assert (first[:512] == third[:512]).all()
    assert first[512] != third[512]
    assert trace.num_distinct_tokens == 1400 + 88
    assert ideal(trace) == 1024 + 512


def test_a_block_that_is_not_full_is_no_other_blocks_beginning(tmp_path):
    """Nothing is found that hindsight does not find."""
    path = write_lines(
        tmp_path / "t.jsonl",
        {"timestamp": 0, "input_length": 600, "hash_ids": [1, 2]},
        {"timestamp": 1, "input_length": 1300, "hash_ids": [1, 2, 3]},
        {"timestamp": 2, "input_length": 600, "hash_ids": [1, 2]},
    )

    trace = read_trace(path)

    assert ideal(trace) == 512 + 600
    assert trace.num_distinct_tokens == 600 + 1300 - 512
    assert replay(trace, Setup(10_000)).hit_tokens <= ideal(trace)


def test_text_is_read_as_bytes_in_the_order_of_time(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"timestamp": 2, "input": "later"})
    write_lines(tmp_path / "b.jsonl", {"timestamp": 1, "text": "früh"}, {"tokens": [5, 6]})

    trace = read_trace(tmp_path)

    assert [trace.tokens(request).tolist() for request in trace.requests] == [
        [5, 6],
        list("früh".encode()),
        list(b"later"),
    ]


def test_what_other_programs_write_is_read(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"  # a mark of its encoding
        b'{"tokens": null, "hash_ids": null, "text": "ab", "timestamp": null}\n'
        b'{"text": null, "input_ids": [97]}'
    )

    trace = read_trace(path)

    assert [trace.tokens(request).tolist() for request in trace.requests] == [[97, 98], [97]]


def test_more_blocks_than_there_are_tokens_for_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("radixkv.replay.trace.MOST_BLOCKS", 3)
    lines = [{"hash_ids": [n, n + 1], "input_length": 1024} for n in (1, 2, 3)]

    assert len(read_trace(write_lines(tmp_path / "t.jsonl", *lines[:2])).requests) == 2
    with pytest.raises(TraceError, match="t.jsonl:3: hash_ids: the 4th different one"):
        read_trace(write_lines(tmp_path / "t.jsonl", *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no requests"),
        ([{"hash_ids": [1]}], "t.jsonl:1: hash_ids: expected input_length"),
        ([{"hash_ids": [1, 2], "input_length": 100}], "t.jsonl:1: hash_ids: 2 ids for 100 tokens"),
        ([{"hash_ids": [1], "input_length": 5}, {"tokens": [1]}], "some lines have hash_ids"),
        ([{"tokens": [1]}, {"tokens": [-1]}], "t.jsonl:2: tokens: expected whole numbers"),
        ([{"tokens": [1, 2.5]}], "t.jsonl:1: tokens: expected whole numbers"),
        ([{"hash_ids": [], "input_length": -5}], "t.jsonl:1: hash_ids: 0 ids for -5 tokens"),
        ([{"hash_ids": "ab", "input_length": 600}], "t.jsonl:1: hash_ids: expected a list"),
        ([{"tokens": [1], "timestamp": float("nan")}], "t.jsonl:1: timestamp: expected a number"),
        ([{"tokens": [1], "timestamp": "noon"}], "timestamp: expected a number, got 'noon'"),
        ([{"hash_ids": [1], "input_length": "x"}], "input_length: expected a number, got 'x'"),
        ([{"hash_ids": [[1]], "input_length": 5}], "t.jsonl:1: hash_ids: expected numbers"),
        ([{"tokens": [[1], [1, 2]]}], "t.jsonl:1: tokens: expected whole numbers"),
        ([{"tokens": {}}], "t.jsonl:1: tokens: expected whole numbers"),
        ([{"tokens": []}, {"text": ""}], "all prompts there are empty"),
        ([{"question": "?"}], "expected hash_ids, tokens or text"),
        ([[1, 2]], "expected an object"),
    ],
)
def test_a_trace_that_cannot_be_read_is_refused(tmp_path, lines, message):
    with pytest.raises(TraceError, match=message):
        read_trace(write_lines(tmp_path / "t.jsonl", *lines))


def test_a_line_that_is_nested_too_deep_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("[" * 100_000)

    with pytest.raises(TraceError, match="t.jsonl:1: "):
        read_trace(path)
