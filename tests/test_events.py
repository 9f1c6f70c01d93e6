"""Events, and a follower that knows an index by them alone."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_stories import make_index, spill_all, tokens

from radixkv import RadixIndex
from radixkv._native import ChunkFollower
from radixkv.events import ChunkRemoved, ChunkStored, take_events
from radixkv.follower import EventGapError, Follower


def make_followed(memory_chunks: int = 100, disk_chunks: int = 0) -> RadixIndex:
    index = make_index(memory_chunks, disk_chunks)
    index.record_events(1 << 20)
    return index


def follow(index: RadixIndex, follower: Follower) -> None:
    follower.follow(index)


def test_a_stored_prompt_is_told_chunk_by_chunk():
    index = make_followed()

    index.insert(tokens("aabbc"))
    first, second, tail = take_events(index)

    assert [event.sequence for event in (first, second, tail)] == [1, 2, 3]
    assert (first.parent, second.parent, tail.parent) == (None, first.key, second.key)
    assert [event.tokens.tolist() for event in (first, second, tail)] == [
        tokens(text).tolist() for text in ("aa", "bb", "c")
    ]
    assert list(take_events(index)) == []


def test_what_leaves_is_told_too():
    index = make_followed()
    index.insert(tokens("aabb"))
    _, second = take_events(index)

    index.evict_units("memory", 1)

    assert list(take_events(index)) == [ChunkRemoved(3, "memory", second.key, 2)]


def test_a_chunk_that_moves_is_stored_before_it_is_removed():
    index = make_followed(disk_chunks=100)
    index.insert(tokens("aa"))
    spill_all(index)
    index.clear_memory()

    told = [(type(event), event.tier) for event in take_events(index)]

    assert told == [
        (ChunkStored, "memory"),
        (ChunkStored, "disk"),
        (ChunkRemoved, "memory"),
    ]


def test_a_dropped_prompt_is_gone_though_it_is_pinned():
    index, follower = make_followed(), Follower(chunk_tokens=2)
    index.insert(tokens("aabb"))

    with index.acquire(tokens("aabb")):
        index.drop(tokens("aa"))
        follow(index, follower)

        assert len(follower) == 0


def test_lost_events_are_noticed():
    index, follower = make_index(), Follower(chunk_tokens=2)
    index.record_events(2)
    index.insert(tokens("aabb"))
    follow(index, follower)
    index.insert(tokens("ccddee"))

    with pytest.raises(EventGapError, match="expected event 4, got 5"):
        follow(index, follower)


def test_events_from_afar_do_what_the_index_itself_does():
    index, here, afar = make_followed(), Follower(chunk_tokens=2), Follower(chunk_tokens=2)
    index.insert(tokens("aabbc"))
    index.insert(tokens("aabbdd"))
    index.evict_units("memory", 1)
    events = list(take_events(index))
    for event in events[:2]:
        afar.apply(event)
    afar.apply(*events[2:])
    here.apply(*events)

    assert afar.last_sequence == here.last_sequence == len(events)
    assert len(afar) == len(here) == index.stats().chunks
    for text in ("aabbc", "aabbdd", "aab", "ax", ""):
        found = index.match(tokens(text))
        wanted = (found.num_tokens, found.num_memory_tokens)
        assert afar.match(tokens(text)) == here.match(tokens(text)) == wanted


def test_what_an_event_says_of_its_tokens_is_not_believed():
    index, follower = make_followed(), Follower(chunk_tokens=2)
    index.insert(tokens("aab"))
    stored = list(take_events(index))
    longer = replace(stored[0], tokens=tokens("aaa").astype(np.uint32))

    with pytest.raises(ValueError, match="expected 1 … 2 tokens for each chunk, got 3"):
        follower.apply(longer)


def test_only_arrays_of_events_are_taken_in():
    with pytest.raises(TypeError, match="events: expected an array of EVENT_DTYPE, got int64"):
        ChunkFollower(64).apply(np.zeros(3, np.int64), np.zeros(0, np.uint32))


@pytest.mark.parametrize("seed", range(8))
def test_a_follower_finds_what_the_index_finds(seed):
    rng = random.Random(seed)
    index, follower = make_followed(memory_chunks=12, disk_chunks=16), Follower(chunk_tokens=2)
    spaces = [0, index.namespace(b"another model...")]
    prompts = [np.array([], np.uint32)]
    for number in range(200):
        start = rng.choice(prompts)[: rng.randrange(12)]
        fresh = [rng.randrange(3) for _ in range(rng.randrange(6))]
        prompt = np.concatenate([start, np.array(fresh, np.uint32)])
        prompts.append(prompt)
        space = rng.choice(spaces)
        index.insert(prompt, space, time=number)
        if rng.random() < 0.3:
            spill_all(index)
        if rng.random() < 0.1:
            index.evict_units("disk", 4)
        if rng.random() < 0.05:
            index.drop(prompt[:1], space)
        if rng.random() < 0.05:
            index.clear_memory()
        follow(index, follower)

        asked = rng.choice(prompts)
        for each in spaces:
            found = index.match(asked, each)
            assert follower.match(asked, each) == (found.num_tokens, found.num_memory_tokens)
    stats = index.stats()
    assert len(follower) <= stats.memory.ready_chunks + stats.disk.ready_chunks
    assert follower.last_sequence > 200


def test_the_router_finds_more_than_turns_do(tmp_path):
    """Twenty conversations of eight turns, two at a time."""
    rng = random.Random(1)
    lines = []
    for first in range(0, 20, 2):
        for turn in range(1, 9):
            for number in rng.sample([first, first + 1], 2):
                prompt = range(number * 1000, number * 1000 + 100 * turn)
                lines.append(json.dumps({"tokens": list(prompt)}))
    (tmp_path / "turns.jsonl").write_text("\n".join(lines))
    example = Path(__file__).parents[1] / "examples/router.py"

    done = subprocess.run(
        [sys.executable, example, tmp_path / "turns.jsonl"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(example.parents[1])},
    )

    assert done.returncode == 0, done.stderr
    rates = [float(rate) for rate in re.findall(r"([\d.]+)% (?:found|by)", done.stdout)]
    assert len(rates) == 4
    assert rates[1] > rates[0]
    assert rates[3] > rates[2]
