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

import logging
import os
from typing import Self, cast

from radixkv import _native
from radixkv._native import (
    IndexJournal,
    IndexStats,
    Match,
    PrefixHandle,
    SavedIndex,
    SubtreeMark,
    SubtreeStats,
    TierStats,
)
from radixkv.commands import Tokens
from radixkv.config import DEFAULT_POLICY, Policy
from radixkv.layout import UNIT_ALIGNMENT, UNITS_PER_CHUNK
from radixkv.subtree import Subtree

__all__ = [
    "IndexJournal",
    "IndexStats",
    "Match",
    "PrefixHandle",
    "RadixIndex",
    "SavedIndex",
    "Subtree",
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

    def walk(self, tokens: Tokens, namespace: int = 0, *, with_path: bool = False) -> Subtree:
        """Give every chunk that is kept and whose path begins with `tokens`.

        A snapshot: chunks may leave a call later. Looks at each of them.

        Args:
            tokens: The prefix; none means the whole namespace.
            namespace: Which tree.
            with_path: Also the chunks that lead there, as a subtree for `plant` must have them.
        """
        return Subtree(*self.walk_subtree(tokens, namespace, with_path))

    def plant(self, subtree: Subtree, namespace: int = 0, *, time: int) -> int:
        """Take in a subtree of another index, as if it had just been stored; moves no bytes.

        As `insert` of each of its paths, evicting as needed.

        Args:
            subtree: Walked with its path, in an index of any size of chunks.
            namespace: Which tree.
            time: The recency that all of it gets.

        Returns:
            Chunks added.

        Raises:
            ValueError: The subtree was walked without its path.
        """
        return sum(self.insert(prompt, namespace, time=time) for prompt in subtree.prompts())

    def save(self, path: str | bytes | os.PathLike[str]) -> None:
        """Write the index to a file, for `RadixIndex.open`.

        Saved are the chunks that are ready, with their extents, recency and uses, what was said
        about subtrees, and the counts of `stats`; not handles, and not what is being written. A
        file of that name is replaced once the new one is whole and on the disk. Matches go on
        meanwhile.

        Args:
            path: The file.

        Raises:
            OSError: It could not be written; a file of that name is as it was.
        """
        super().save(os.fsencode(path))

    def journal(self, path: str | bytes | os.PathLike[str]) -> IndexJournal:
        """Save the index, and go on to write down what becomes of it.

        Args:
            path: The file. It is replaced.

        Returns:
            The journal; it writes when its `flush` is called.

        Raises:
            OSError: The file could not be written.
            ValueError: The index has a journal already.
        """
        return super().journal(os.fsencode(os.path.abspath(path)))  # wherever the process goes

    def adopt(self, path: str | os.PathLike[str]) -> int:
        """Take from a saved index what the chunks that this one has too were worth to it.

        For an index whose tiers were reopened: recency and uses of the chunks that came back, told
        by their tokens, all that was said about subtrees, and how many chunks were evicted, dropped
        or failed so far. Chunks of time 0 that the saved index does not have are taken to be
        younger than all that it has.

        Args:
            path: A file of `save` or of a journal.

        Returns:
            How many chunks both have.

        Raises:
            IndexFormatError: It is not a saved index, or a damaged one.
            OSError: It cannot be read.
        """
        return self.adopt_saved(_native.SavedIndex(os.fsencode(path)))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Make the index anew that `save` or a journal wrote, with the settings that it had.

        Back come the chunks that were ready, in the same extents, with their recency and uses, what
        was said about subtrees, and the counts of `stats`. Ids of chunks are others, and so may be
        the numbers of namespaces. What a torn end of a journal had is lost, and logged.

        Args:
            path: The file.

        Raises:
            IndexFormatError: It is not a saved index, or a damaged one.
            OSError: It cannot be read.
        """
        saved = _native.SavedIndex(os.fsencode(path))
        index = cls(
            chunk_tokens=saved.chunk_tokens,
            token_bytes=saved.token_bytes,
            memory_bytes=saved.memory_bytes,
            disk_bytes=saved.disk_bytes,
            tail_slack=saved.tail_slack,
            unit_bytes=saved.unit_bytes,
            policy=cast(Policy, saved.policy),
            max_pinned=saved.max_pinned,
        )
        index.restore(saved)
        if saved.num_lost_bytes:
            logging.getLogger(__name__).warning(
                "%s: the last %d bytes are torn or damaged and do not count",
                path,
                saved.num_lost_bytes,
            )
        return index
