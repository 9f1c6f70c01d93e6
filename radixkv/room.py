"""Taking room in memory, where others have to leave for it."""

from __future__ import annotations

import numpy as np

from radixkv.commands import ChunkArray, Tokens
from radixkv.index import RadixIndex


def reserve(
    index: RadixIndex,
    tokens: Tokens,
    namespace: int,
    *,
    time: int,
    limit: int | None = None,
    tail: bool = True,
) -> tuple[ChunkArray, int]:
    """As `RadixIndex.reserve`, evicting others to make room, but never the tokens' own prefix.

    Returns:
        Chunks to write, parents first, and how many units more would have been needed.
    """

    def attempt() -> tuple[ChunkArray, int]:
        return index.reserve(
            tokens, namespace, time=time, limit=limit, tail=tail, release_gil=False
        )

    chunks, missing_units = attempt()
    if missing_units:
        with index.acquire(tokens, namespace, limit=limit, release_gil=False):
            if evict(index, "memory", missing_units):
                more, missing_units = attempt()
                chunks = np.concatenate([chunks, more]) if len(chunks) else more
    return chunks, missing_units


def evict(index: RadixIndex, tier: str, num_units: int) -> bool:
    """Make room; False if nothing may go."""
    return len(index.evict_units(tier, num_units)) > 0


def bytes_of(index: RadixIndex, chunks: ChunkArray) -> int:
    """What the extents of chunks take."""
    return int(chunks["num_units"].sum(dtype=np.int64)) * index.unit_bytes
