"""How well the index packs extents: a tier that is full must be nearly full of chunks."""

from __future__ import annotations

import random

import numpy as np
import pytest
from index_stories import tokens

from radixkv import RadixIndex

CHUNK_TOKENS = 16  # a unit a token: extents of 1 to 16 units
UNITS = 16 * 1000


def make_index() -> RadixIndex:
    return RadixIndex(
        chunk_tokens=CHUNK_TOKENS, token_bytes=1, unit_bytes=1, memory_bytes=UNITS, tail_slack=0
    )


def churn(index: RadixIndex, num_prompts: int, lengths: list[int]) -> list[float]:
    """Stores prompts of these lengths in a full tier; returns how full it was after each."""
    chooser = random.Random(5)
    occupancy = []
    for number in range(num_prompts):
        prompt = np.full(chooser.choice(lengths), number, np.uint32)
        index.insert(prompt, time=chooser.randrange(10**6))
        if index.stats().memory.evicted_chunks > 0:
            occupancy.append(index.stats().memory.used_units / UNITS)
    index.check_invariants()
    return occupancy


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("full chunks and tails", [16 * 8 + tail for tail in range(16)]),
        ("mostly short", [1, 2, 3, 5, 8, 13, 16, 24, 40]),
        ("every length", list(range(1, 17))),
    ],
)
def test_a_full_tier_is_nearly_full_of_chunks_under_churn(name, lengths):
    occupancy = churn(make_index(), 6000, lengths)

    assert len(occupancy) > 1000
    assert sum(occupancy) / len(occupancy) >= 0.95, name


def test_extents_never_overlap():
    index = make_index()
    churn(index, 3000, list(range(1, 60)))
    taken = np.zeros(UNITS, bool)

    for number in range(3000):
        for chunk in index.match(np.full(60, number, np.uint32)).slices():
            first = int(chunk["memory_offset"])
            extent = slice(first, first + int(chunk["num_units"]))
            assert not taken[extent].any()
            taken[extent] = True

    assert taken.sum() == index.stats().memory.used_units


def test_a_prompt_lies_in_one_piece_where_there_is_one():
    index = make_index()

    index.insert(tokens("a" * 200))

    slices = index.match(tokens("a" * 200)).slices()
    ends = slices["memory_offset"] + slices["num_units"]
    assert (ends[:-1] == slices["memory_offset"][1:]).all()
