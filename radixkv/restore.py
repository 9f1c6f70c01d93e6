"""What counts of a reopened disk when an engine has several ranks: what all have alike.

A crash, or a disk that was swapped, can leave one rank with chunks that another lacks. A chunk is
of use only where every rank has its part, in the same extent and of the same store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radixkv.errors import TierFormatError
from radixkv.tiers.disk import DiskInspection, RestoredChunks, disk_file

Fingerprints = NDArray[np.void]


def inspect_ranks(folder: Path, num_ranks: int) -> RestoredChunks | None:
    """What the files of all ranks have alike, looked at while their executors own them.

    For a planner in a process of its own, before its first command.

    Returns:
        None where a rank's file is not on this host.

    Raises:
        TierError: A file cannot be read, or the files do not belong together.
    """
    files = [disk_file(folder, rank) for rank in range(num_ranks)]
    if not all(file.exists() for file in files):
        return None
    found = [DiskInspection(file).chunks for file in files]
    check_groups([restored.group_id for restored in found])
    return in_common(found[0], [fingerprints(restored) for restored in found])


def fingerprints(restored: RestoredChunks) -> Fingerprints:
    """One value a chunk, equal where extent, key and sequence number are. Shape: (n,)."""
    columns = np.zeros(len(restored), [("offset", "<u4"), ("sequence", "<u8"), ("key", "V16")])
    columns["offset"] = restored.disk_offset
    columns["sequence"] = restored.sequence
    columns["key"] = np.ascontiguousarray(restored.keys).view("V16").reshape(-1)
    return columns


def check_groups(group_ids: Sequence[bytes]) -> None:
    """Refuse ranks' files that were not made together.

    Raises:
        TierFormatError: Says what to do.
    """
    if len(set(group_ids)) > 1:
        raise TierFormatError(
            "disk",
            "open",
            "the ranks' files were not made by one engine: remove the folder, or name another",
        )


def in_common(restored: RestoredChunks, ranks: Sequence[Fingerprints]) -> RestoredChunks:
    """The chunks that every rank has, with all their parents, in an order that all ranks find."""
    mine = fingerprints(restored)
    if all(np.array_equal(mine.view(np.uint8), theirs.view(np.uint8)) for theirs in ranks):
        return restored
    last = max(int(theirs["sequence"].max(initial=0)) for theirs in ranks)
    restored = dataclasses.replace(restored, last_sequence=last)
    keep = np.ones(len(restored), bool)
    for theirs in ranks:
        keep &= np.isin(mine.view(f"V{mine.itemsize}"), theirs.view(f"V{theirs.itemsize}"))
    depth = np.zeros(len(restored), np.int64)
    for index in np.flatnonzero(restored.parent_index >= 0):
        parent = restored.parent_index[index]
        keep[index] &= keep[parent]
        depth[index] = depth[parent] + 1
    # The order of a file depends on what else is in it, so it may differ between ranks.
    order = np.lexsort((restored.disk_offset, restored.sequence, depth))
    return _select(restored, order[keep[order]])


def _select(restored: RestoredChunks, chosen: NDArray[np.intp]) -> RestoredChunks:
    new_index = np.full(len(restored), -1)
    new_index[chosen] = np.arange(len(chosen))
    parents = restored.parent_index[chosen]
    num_tokens = restored.num_tokens[chosen].astype(np.int64)
    old_begin = (np.cumsum(restored.num_tokens, dtype=np.int64) - restored.num_tokens)[chosen]
    new_begin = np.cumsum(num_tokens) - num_tokens
    return dataclasses.replace(
        restored,
        parent_index=np.where(parents < 0, -1, new_index[parents]).astype(np.int64),
        num_tokens=restored.num_tokens[chosen],
        tokens=restored.tokens[
            np.repeat(old_begin - new_begin, num_tokens) + np.arange(num_tokens.sum())
        ],
        disk_offset=restored.disk_offset[chosen],
        num_units=restored.num_units[chosen],
        namespace_index=restored.namespace_index[chosen],
        sequence=restored.sequence[chosen],
        keys=restored.keys[chosen],
    )
