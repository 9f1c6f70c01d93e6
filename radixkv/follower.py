"""Follower: an index seen from outside, rebuilt from its events alone.

A router keeps one for each replica and asks it, as it would ask the replica's index, how much of a
prompt is kept there. It moves nothing, evicts nothing and holds no pins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.commands import Tokens
from radixkv.errors import RadixKVError
from radixkv.events import Event, EventArray, to_arrays
from radixkv.index import RadixIndex


class EventGapError(RadixKVError):
    """Events are missing: what is followed has to be followed anew, from an empty follower."""


class Kept(NamedTuple):
    """How much of a prompt an index has: tokens on any tier, and tokens in memory."""

    num_tokens: int
    num_memory_tokens: int


class Follower:
    """What one index keeps. One thread.

    Args:
        chunk_tokens: Tokens of a full chunk, as the index has it.

    Attributes:
        last_sequence: Number of the last event taken in.
    """

    def __init__(self, chunk_tokens: int = 64) -> None:
        self._chunks = _native.ChunkFollower(chunk_tokens)
        self.last_sequence = 0

    def __len__(self) -> int:
        """Chunks that are kept on any tier."""
        return len(self._chunks)

    def follow(self, index: RadixIndex) -> int:
        """Take in what happened in an index of this process since the last call.

        Returns:
            The number of events.

        Raises:
            EventGapError: Some were lost.
        """
        return self._apply(*index.take_events())

    def apply(self, *events: Event) -> None:
        """Take in the next events, in order. Many at once take less time.

        Raises:
            EventGapError: They are not the next ones; none has been taken in.
        """
        self._apply(*to_arrays(events))

    def match(self, tokens: Tokens, namespace: int = 0) -> Kept:
        """What the index finds of a prompt, token for token.

        Args:
            tokens: Shape: (num_tokens,), int32, int64 or uint32.
            namespace: Number of the tree, as the index numbers them.
        """
        return Kept(*self._chunks.match(tokens, namespace))

    def _apply(self, events: EventArray, tokens: NDArray[np.uint32]) -> int:
        expected = self.last_sequence + 1
        wrong = np.flatnonzero(events["sequence"] != expected + np.arange(len(events)))
        if len(wrong):
            first = int(wrong[0])
            got = int(events["sequence"][first])
            raise EventGapError(f"expected event {expected + first}, got {got}")
        self._chunks.apply(events, tokens)
        self.last_sequence += len(events)
        return len(events)
