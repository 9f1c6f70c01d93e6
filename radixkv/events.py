"""Events: what a match in an index may find from now on, and what no longer.

    index.record_events(1 << 20)         once; before the first chunk, to be told of all
    for event in take_events(index):     as often as one likes
        follower.apply(event)

A follower in the index's own process takes them faster by `follower.follow(index)`.

A chunk is told of when it becomes visible on a tier, with its tokens and the chunk that it
continues, and when it leaves the tier. A chunk that moves is stored on one tier and removed from
the other. Events are numbered without a gap; where numbers are missing, more happened than was
taken in time, and whoever follows has to start anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radixkv.index import RadixIndex

Tier = Literal["memory", "disk"]
_TIERS: tuple[Tier, Tier] = ("memory", "disk")
_NO_CHUNK = 0xFFFFFFFF

EVENT_DTYPE = np.dtype(
    [
        ("sequence", "<u8"),
        ("id", "<u4"),  # of the chunk, with its generation
        ("generation", "<u4"),
        ("parent_id", "<u4"),  # of the chunk before it; 0xFFFFFFFF for the first of a prompt
        ("parent_generation", "<u4"),
        ("space", "<u4"),  # its namespace
        ("first_token", "<u4"),  # where its tokens begin among those that come with the events
        ("num_tokens", "<u2"),
        ("is_stored", "u1"),  # else removed
        ("tier", "u1"),
        ("unused", "<u4"),
    ]
)
"""One event as `RadixIndex.take_events` gives it. 40 bytes, as `IndexEvent` in csrc/index."""

EventArray = NDArray[np.void]


@dataclass(frozen=True, slots=True, eq=False)
class ChunkStored:
    """A chunk can be found on a tier.

    Attributes:
        sequence: Number of the event, from 1.
        tier: Where.
        key: Names the chunk as long as any tier has it, and no other chunk ever.
        parent: Key of the chunk that it continues; None at a prompt's start.
        namespace: Number of its tree, as `RadixIndex.namespace` gave it.
        tokens: Its own. Shape: (num_tokens,), uint32; fewer than a full chunk in a tail.
    """

    sequence: int
    tier: Tier
    key: int
    parent: int | None
    namespace: int
    tokens: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ChunkRemoved:
    """A chunk is on this tier no longer.

    Attributes:
        sequence: Number of the event, from 1.
        tier: Which it has left.
        key: The chunk's, as `ChunkStored` has it.
        num_tokens: Tokens that it had.
    """

    sequence: int
    tier: Tier
    key: int
    num_tokens: int


Event = ChunkStored | ChunkRemoved


def take_events(index: RadixIndex) -> Iterator[Event]:
    """What happened since the last call, in order; nothing unless the index records events."""
    events, tokens = index.take_events()
    for event in events:
        sequence, tier = int(event["sequence"]), _TIERS[event["tier"]]
        key = _key(event["generation"], event["id"])
        if not event["is_stored"]:
            yield ChunkRemoved(sequence, tier, key, int(event["num_tokens"]))
            continue
        has_parent = event["parent_id"] != _NO_CHUNK
        first = int(event["first_token"])
        yield ChunkStored(
            sequence,
            tier,
            key,
            _key(event["parent_generation"], event["parent_id"]) if has_parent else None,
            int(event["space"]),
            tokens[first : first + int(event["num_tokens"])],
        )


def to_arrays(events: Sequence[Event]) -> tuple[EventArray, NDArray[np.uint32]]:
    """Events in the form in which the index gives them: (events, tokens of those that stored)."""
    array = np.zeros(len(events), EVENT_DTYPE)
    tokens: list[NDArray[np.uint32]] = []
    num_tokens = 0
    for row, event in zip(array, events, strict=True):
        row["sequence"], row["tier"] = event.sequence, _TIERS.index(event.tier)
        row["generation"], row["id"] = divmod(event.key, 1 << 32)
        if not isinstance(event, ChunkStored):
            row["num_tokens"] = event.num_tokens
            continue
        row["is_stored"], row["space"] = 1, event.namespace
        row["parent_generation"], row["parent_id"] = (
            (0, _NO_CHUNK) if event.parent is None else divmod(event.parent, 1 << 32)
        )
        row["first_token"], row["num_tokens"] = num_tokens, len(event.tokens)
        num_tokens += len(event.tokens)
        tokens.append(event.tokens)
    return array, np.concatenate(tokens) if tokens else np.empty(0, np.uint32)


def _key(generation: int, chunk_id: int) -> int:
    return int(generation) << 32 | int(chunk_id)
