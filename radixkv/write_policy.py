"""When a chunk in memory is written to a remote server, and how often chunks were seen.

through   as soon as memory has it
seen:n    once n requests had it in their prompts
evict     once memory is nearly full, what nobody has had for longest first
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import ChunkArray

_MOST_SIGHTINGS = 100


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """One of them.

    Attributes:
        num_sightings: How many requests must have had a chunk.
        waits_until_full: Whether it is written only where it would soon be lost.
    """

    num_sightings: int = 1
    waits_until_full: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """As the configuration has it.

        Raises:
            ValueError: It is none of the three.
        """
        if text == "through":
            return cls()
        if text == "evict":
            return cls(waits_until_full=True)
        name, _, number = text.partition(":")
        if name == "seen" and number.isdecimal() and 1 <= int(number) <= _MOST_SIGHTINGS:
            return cls(num_sightings=int(number))
        raise ValueError(text)

    @property
    def watches_use(self) -> bool:
        """Whether it has to be told which chunks requests have."""
        return self.num_sightings > 1 or self.waits_until_full


class Sightings:
    """How many requests had each chunk that memory keeps, and which one was the last.

    Requests are numbered by their admissions. A chunk that has left memory and comes again begins
    anew.
    """

    def __init__(self) -> None:
        self._generations = np.zeros(0, np.uint32)  # these three by chunk id
        self._counts = np.zeros(0, np.uint32)
        self._last = np.zeros(0, np.int64)

    def note(self, chunks: ChunkArray, admission: int) -> NDArray[np.bool_]:
        """A request has these chunks; for which of them that was not known before."""
        ids = chunks["id"].astype(np.int64)
        if len(ids) and ids.max() >= len(self._counts):
            self._grow(2 * int(ids.max()) + 1)
        is_other = self._generations[ids] != chunks["generation"]
        fresh = ids[is_other]
        self._generations[fresh] = chunks["generation"][is_other]
        self._counts[fresh] = 0
        self._last[fresh] = -1
        is_new = self._last[ids] < admission
        self._counts[ids[is_new]] += 1
        self._last[ids[is_new]] = admission
        return is_new

    def counts(self, chunks: ChunkArray) -> NDArray[np.uint32]:
        """How many requests had each of the chunks, which were all noted."""
        counts: NDArray[np.uint32] = self._counts[chunks["id"]]
        return counts

    def last(self, chunks: ChunkArray) -> int:
        """The last request that had any of the chunks, which were all noted."""
        return int(self._last[chunks["id"]].max())

    def _grow(self, size: int) -> None:
        extra = size - len(self._counts)
        self._generations = np.append(self._generations, np.zeros(extra, np.uint32))
        self._counts = np.append(self._counts, np.zeros(extra, np.uint32))
        self._last = np.append(self._last, np.full(extra, -1, np.int64))
