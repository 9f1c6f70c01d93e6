"""Follower: an index seen from outside, rebuilt from its events alone.

A router keeps one for each replica and asks it, as it would ask the replica's index, how much of a
prompt is kept there. It moves nothing, evicts nothing and holds no pins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radixkv.errors import RadixKVError
from radixkv.events import ChunkStored, Event, Tier

Ids = NDArray[np.uint32]
Place = tuple[int, int | None]  # a namespace, and the key of the chunk before


class EventGapError(RadixKVError):
    """Events are missing: what is followed has to be followed anew, from an empty follower."""


class Kept(NamedTuple):
    """How much of a prompt an index has: tokens on any tier, and tokens in memory."""

    num_tokens: int
    num_memory_tokens: int


@dataclass(slots=True, eq=False)
class _Chunk:
    key: int
    place: Place
    tokens: Ids
    tiers: set[Tier] = field(default_factory=set)


class Follower:
    """What one index keeps. One thread.

    Args:
        chunk_tokens: Tokens of a full chunk, as the index has it.
    """

    def __init__(self, chunk_tokens: int = 64) -> None:
        self._chunk_tokens = chunk_tokens
        self._chunks: dict[int, _Chunk] = {}
        # Chunks that continue a place: full ones by their tokens, all by their first token.
        self._full: dict[tuple[Place, bytes], _Chunk] = {}
        self._beginning: dict[tuple[Place, int], list[_Chunk]] = {}
        self.last_sequence = 0

    def __len__(self) -> int:
        """Chunks that are kept on any tier."""
        return len(self._chunks)

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            EventGapError: It is not the next one.
        """
        if event.sequence != self.last_sequence + 1:
            raise EventGapError(f"expected event {self.last_sequence + 1}, got {event.sequence}")
        self.last_sequence = event.sequence
        chunk = self._chunks.get(event.key)
        if isinstance(event, ChunkStored):
            if chunk is None:
                chunk = self._add(event)
            chunk.tiers.add(event.tier)
        elif chunk is not None:  # else it was stored before events were recorded
            chunk.tiers.discard(event.tier)
            if not chunk.tiers:
                self._remove(chunk)

    def match(self, tokens: Ids, namespace: int = 0) -> Kept:
        """What the index finds of a prompt, token for token.

        Args:
            tokens: Shape: (num_tokens,), uint32.
            namespace: Number of the tree, as the index numbers them.
        """
        place: Place = (namespace, None)
        start = 0
        memory_tokens: int | None = None
        while True:
            own = tokens[start : start + self._chunk_tokens]
            chunk = self._full.get((place, own.tobytes()))
            if memory_tokens is None and (chunk is None or "memory" not in chunk.tiers):
                memory_tokens = start + self._reach(place, own, "memory")
            if chunk is None:
                return Kept(start + self._reach(place, own, None), memory_tokens or 0)
            place = (namespace, chunk.key)
            start += self._chunk_tokens

    def _reach(self, place: Place, tokens: Ids, tier: Tier | None) -> int:
        """The most of these tokens that one chunk of the place begins with."""
        if not len(tokens):
            return 0
        found = self._beginning.get((place, int(tokens[0])), ())
        return max(
            (_count_equal(one.tokens, tokens) for one in found if not tier or tier in one.tiers),
            default=0,
        )

    def _add(self, event: ChunkStored) -> _Chunk:
        place = (event.namespace, event.parent)
        chunk = self._chunks[event.key] = _Chunk(event.key, place, event.tokens)
        self._beginning.setdefault((place, int(event.tokens[0])), []).append(chunk)
        if len(event.tokens) == self._chunk_tokens:
            self._full[place, event.tokens.tobytes()] = chunk
        return chunk

    def _remove(self, chunk: _Chunk) -> None:
        del self._chunks[chunk.key]
        begins = (chunk.place, int(chunk.tokens[0]))
        self._beginning[begins].remove(chunk)
        if not self._beginning[begins]:
            del self._beginning[begins]
        if len(chunk.tokens) == self._chunk_tokens:
            del self._full[chunk.place, chunk.tokens.tobytes()]


def _count_equal(a: Ids, b: Ids) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length
