"""What a disk tier keeps, found again when it is opened or looked at.

The tier itself is native (`csrc/disk`) and is served by the executor. Here are the values around
it: how to open it, what it held, and a look from outside that neither needs the lock nor changes a
byte.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.config import CacheConfig
from radixkv.errors import TierError

_SPILL_WINDOW_BYTES = 128 << 20
_log = logging.getLogger(__name__)


def disk_file(folder: str | os.PathLike[str], rank: int) -> Path:
    """Where a rank's file is."""
    return Path(folder) / f"rank{rank}.radixkv"


def spill_window_bytes(memory_bytes: int) -> int:
    """Bytes that may be on their way to disk: until they are synced, memory cannot evict them."""
    return min(_SPILL_WINDOW_BYTES, memory_bytes // 4)


def log_scan(num_read: int, num_headers: int) -> None:
    """Say once a second how far the opening of a large disk has come."""
    _log.info("disk: %d of at most %d headers read", num_read, num_headers)


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How to open a rank's file in a folder.

    Attributes:
        path: The folder. Made if missing; the folder above it must exist.
        capacity_bytes: Size of the file, headers and all. Fixed when the file is made.
        durable: "group" acknowledges after a sync of everything written lately, "none" after the
            write.
        io_engine: "auto" takes io_uring where it works, "threads" never does.
        world_size: Ranks of the group that writes side by side.
        rank: Of this process, 0 … world_size - 1. Each rank has a file and a lock of its own.
        group_id: 16 bytes, the same on all ranks; a new file gets them, an old one must have
            them. None: random for a new file, whatever it has for an old one.
        sync_bytes: With "group", sync at the latest when so much was written.
        sync_interval_s: With "group", sync at the latest so long after a write; at once when
            writing pauses.
        piece_bytes: Larger transfers are cut into pieces of this size.
        depth: Pieces in flight at a time, each way.
    """

    path: str | os.PathLike[str]
    capacity_bytes: int
    durable: Literal["group", "none"] = "group"
    io_engine: Literal["auto", "threads"] = "auto"
    world_size: int = 1
    rank: int = 0
    group_id: bytes | None = None
    sync_bytes: int = 64 << 20
    sync_interval_s: float = 1.0
    piece_bytes: int = 4 << 20
    depth: int = 8

    def __post_init__(self) -> None:
        if self.durable not in ("group", "none"):
            raise ValueError(f"durable: expected 'group' or 'none', got {self.durable!r}")
        if self.io_engine not in ("auto", "threads"):
            raise ValueError(f"io_engine: expected 'auto' or 'threads', got {self.io_engine!r}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank: expected 0 … {self.world_size - 1}, got {self.rank}")
        if self.piece_bytes < 4096 or self.piece_bytes % 4096:
            raise ValueError(f"piece_bytes: expected a multiple of 4096, got {self.piece_bytes}")
        if not 1 <= self.depth <= 64:
            raise ValueError(f"depth: expected 1 … 64, got {self.depth}")

    @staticmethod
    def from_config(
        config: CacheConfig, group_id: bytes, rank: int, world_size: int
    ) -> DiskOptions | None:
        """As the settings want it, sizes of this rank; None where they want no disk tier.

        A file that is made beside those of other ranks gets their group id, else `group_id`.
        """
        if config.disk_path is None:
            return None
        is_there = disk_file(config.disk_path, rank).exists()
        return DiskOptions(
            group_id=None if is_there else _group_here(config.disk_path, world_size) or group_id,
            path=config.disk_path,
            capacity_bytes=config.disk_size_bytes,
            durable="none" if config.disk_durable == "none" else "group",
            io_engine="threads" if config.disk_io == "threads" else "auto",
            rank=rank,
            world_size=world_size,
            sync_bytes=spill_window_bytes(config.memory_size_bytes) // 2,
        )


@dataclass(frozen=True, slots=True)
class RestoredChunks:
    """The chunks that a disk file held, parents before their children.

    Attributes:
        parent_index: Index of the parent, -1 for the first chunk of a prompt. Shape: (n,), int64.
        num_tokens: Shape: (n,), uint16.
        tokens: All chunks' tokens, one after the other. Shape: (sum of num_tokens,), uint32.
        disk_offset: First unit of the extent. Shape: (n,), uint32.
        num_units: Shape: (n,), uint16.
        namespace_index: Into `digests`. Shape: (n,), int32.
        sequence: As the spill numbered them. Shape: (n,), uint64.
        keys: The chunks' content keys. Shape: (n, 16), uint8.
        digests: The namespaces' digests, 16 bytes each.
        group_id: Drawn when the file was made, 16 bytes.
        dropped: How many headers did not count, by reason: torn, foreign, wrong_key, cut (beyond
            the end of the file), duplicate, overlapped, orphan.
        last_sequence: What no spill may be numbered again: of several ranks' files, one may have
            chunks that the others lack.
    """

    parent_index: NDArray[np.int64]
    num_tokens: NDArray[np.uint16]
    tokens: NDArray[np.uint32]
    disk_offset: NDArray[np.uint32]
    num_units: NDArray[np.uint16]
    namespace_index: NDArray[np.int32]
    sequence: NDArray[np.uint64]
    keys: NDArray[np.uint8]
    digests: list[bytes]
    group_id: bytes
    dropped: dict[str, int]
    last_sequence: int = 0

    def __len__(self) -> int:
        return len(self.parent_index)

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> RestoredChunks:
        """Wrap what the native side hands over."""
        return RestoredChunks(**fields)


class DiskInspection:
    """A rank's file, looked at from outside: read-only, without its lock.

    A snapshot. While another process writes the file, chunks that it replaces meanwhile show as
    damaged.

    Args:
        path: The file.

    Raises:
        TierError: The file cannot be read.
        TierFormatError: It is not a radixkv file, or one of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._native = _native.DiskInspection(os.fsencode(path))
        facts = self._native.facts()
        self.format_version: int = facts["format_version"]
        self.layout_digest: bytes = facts["layout_digest"]
        self.unit_bytes: int = facts["unit_bytes"]
        self.chunk_tokens: int = facts["chunk_tokens"]
        self.capacity_units: int = facts["capacity_units"]
        self.world_size: int = facts["world_size"]
        self.rank: int = facts["rank"]
        self.chunks = RestoredChunks.from_fields(self._native.restored())

    def read(self, index: int) -> bytes | None:
        """The bytes of one of `chunks` in stored form; None where they are damaged."""
        return self._native.read(index)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[int]:
        """Read every payload and compare checksums.

        Args:
            progress: Called after each chunk with the number done and the number of all.

        Returns:
            Indexes into `chunks` of those that are damaged.
        """
        damaged = []
        for index in range(len(self.chunks)):
            if not self._native.verify(index):
                damaged.append(index)
            if progress is not None:
                progress(index + 1, len(self.chunks))
        return damaged

    def locked_by(self) -> int | None:
        """Process that uses the file now, if any (0 if it cannot be told which)."""
        try:
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            text = os.pread(lock, 32, 0)
            return int(text) if text.isdigit() else 0
        finally:
            os.close(lock)


def _group_here(folder: Path, world_size: int) -> bytes | None:
    """The group of the other ranks' files, for a rank that has none: it was killed, or its disk was
    full, when all were made, or somebody removed it. A new file is right beside them: what they
    hold and it lacks does not count.
    """
    for file in sorted(folder.glob("rank*.radixkv")) if world_size > 1 else ():
        with contextlib.suppress(TierError):  # no rank of ours; the one whose it is will tell
            found = DiskInspection(file)
            if found.world_size == world_size:
                return found.chunks.group_id
    return None


def units_that_fit(capacity_bytes: int, unit_bytes: int) -> int:
    """Units of payload in a file of this size, beside its headers."""
    return _native.disk_units_that_fit(capacity_bytes, unit_bytes)


def inspect_folder(path: str | os.PathLike[str]) -> list[DiskInspection]:
    """Look at every rank's file in a folder, in order of rank.

    Raises:
        TierError: There is no such folder or no file in it, or a file cannot be read.
    """
    files = sorted(Path(path).glob("rank*.radixkv"))
    if not files:
        raise TierError("disk", "inspect", f"no radixkv files in {os.fspath(path)}")
    return sorted((DiskInspection(file) for file in files), key=lambda found: found.rank)
