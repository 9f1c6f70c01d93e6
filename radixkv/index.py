"""RadixIndex: which tokens are kept, in which chunk, on which tier. Moves no bytes.

The tree itself is native (`csrc/index/radix_index.h` draws it); this module gives it its defaults.
The index knows two tiers, "memory" and "disk". On each, a chunk is absent, writing or ready:

    reserve ──▶ writing ──complete──▶ ready ──evict──▶ absent

A match may end at any token. What it found may leave at once; `acquire` pins it. A command that
reads or writes a chunk holds a *use* on it, from the call that made it (`reserve`, `use`,
`reserve_spill`, `reserve_fetch`) to the one that ends it (`complete_…`, `release_uses`).

About a *subtree*, what begins with the same tokens, a caller may say things that hold for all that
is stored there later too: a priority, a time to live, a quota, pins with an owner and an end. The
index reads no clock: time is what callers say it is, in whatever unit.

Tokens are contiguous buffers of int32, int64 or uint32, read in place; ids are 0 … 2**32 - 1. One
outside ends a match, and is a ValueError where it would be kept. Chunks are arrays of
`CHUNK_DTYPE`.

`index_runs(min_length)`, once, lets `find_runs(tokens)` find the longest runs that are kept
anywhere, not only as a prefix, each with one place; a thread of the index's own files what is kept,
some milliseconds behind (`num_waiting`, `wait_for_runs`). Where a text is kept in more than 256
places, or looking at all of them takes too long, the answer says `truncated`.

Threads: every call may come from any thread. Matches run beside each other, everything else alone;
a lock inside costs some tens of nanoseconds. The GIL is freed for walks over more than 65,536
tokens, unless `release_gil=False`.
"""

from __future__ import annotations

from radixkv import _native
from radixkv._native import (
    IndexStats,
    Match,
    PrefixHandle,
    SubtreeMark,
    SubtreeStats,
    TierStats,
)
from radixkv.config import DEFAULT_POLICY, Policy
from radixkv.layout import UNIT_ALIGNMENT, UNITS_PER_CHUNK

__all__ = [
    "IndexStats",
    "Match",
    "PrefixHandle",
    "RadixIndex",
    "SubtreeMark",
    "SubtreeStats",
    "TierStats",
]


class RadixIndex(_native.RadixIndex):
    """A token-exact radix index over a memory and a disk tier.

    Args:
        chunk_tokens: Tokens in a full chunk, 1 to 512.
        token_bytes: Bytes of one token's KV; only tells how much room a chunk needs.
        memory_bytes: Capacity of the memory tier. None has no end, for use without bytes.
        disk_bytes: Capacity of the disk tier; 0 has none.
        tail_slack: A tail goes once a ready chunk has all but so many of its tokens.
        unit_bytes: Granularity of extents. By default 1/16 of a full chunk, rounded up to 4 KiB.
        policy: Which chunk leaves first, by name: `radixkv.config.POLICIES`.
        max_pinned: Share of each tier that pinned subtrees may have, 0 to 1.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        chunk_tokens: int = 64,
        token_bytes: int = 1,
        memory_bytes: int | None = None,
        disk_bytes: int = 0,
        tail_slack: int = 4,
        unit_bytes: int | None = None,
        policy: Policy = DEFAULT_POLICY,
        max_pinned: float = 0.5,
    ) -> None:
        if unit_bytes is None:
            share = -(-token_bytes * chunk_tokens // UNITS_PER_CHUNK)
            unit_bytes = max(1, -(-share // UNIT_ALIGNMENT)) * UNIT_ALIGNMENT
        super().__init__(
            chunk_tokens=chunk_tokens,
            token_bytes=token_bytes,
            unit_bytes=unit_bytes,
            memory_bytes=memory_bytes,
            disk_bytes=disk_bytes,
            tail_slack=tail_slack,
            policy=policy,
            max_pinned=max_pinned,
        )
