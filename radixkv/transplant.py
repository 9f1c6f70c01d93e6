"""Taking subtrees with their bytes from one cache to another, by way of a file.

    index ── walk ──▶ chunks ── bytes from memory or disk ──▶ ChunkFileWriter
    ChunkFile ── paths, least recently used first ── Planner.plant ──▶ as if stored

Both go chunk by chunk, so neither needs room for more than some of them at a time. With several
ranks each has a file of its own, and all take the same steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixkv.chunk_file import ChunkFile, ChunkFileWriter, StoredForm
from radixkv.commands import NO_EXTENT
from radixkv.errors import ChunkFileError
from radixkv.executor import Executor
from radixkv.group import RankGroup
from radixkv.index import Subtree
from radixkv.planner import Planner
from radixkv.tiers.disk import DiskInspection

Progress = Callable[[int, int], None]
"""Called now and then with the number of chunks done and the number of all."""

_PIECE_BYTES = 32 << 20  # taken in at a time, or a quarter of memory


@dataclass(frozen=True, slots=True)
class Transplanted:
    """What went into a file, or came out of it.

    Attributes:
        num_chunks: Chunks that did.
        num_tokens: Tokens of them.
        num_damaged: Chunks whose bytes were spoilt where they lay.
        num_left: Chunks left alone. An export leaves those below a damaged one; an import those
            too, and what is kept already or had no room.
    """

    num_chunks: int
    num_tokens: int
    num_damaged: int
    num_left: int


def nothing(done: int, total: int) -> None:
    """For who wants to hear of no progress."""


def export_chunks(
    path: str | os.PathLike[str],
    subtree: Subtree,
    namespace: bytes,
    executor: Executor,
    group: RankGroup,
    *,
    progress: Progress = nothing,
) -> Transplanted:
    """Write a subtree of a cache in which nothing is under way to a file; see `KVCache`."""
    disk = None if executor.disk_file is None else DiskPayloads(DiskInspection(executor.disk_file))
    with ChunkFileWriter(_own_file(path, group), _stored_form(executor, group)) as writer:
        done = write_chunks(
            writer, subtree, namespace, executor.read_memory, disk, progress=progress
        )
        _require_alike(group.gather(writer.digest))
        writer.commit()
    return done


def import_chunks(
    path: str | os.PathLike[str],
    namespace: bytes,
    planner: Planner,
    executor: Executor,
    group: RankGroup,
    *,
    settle: Callable[[], object],
    progress: Progress = nothing,
) -> Transplanted:
    """Take a file's chunks of one namespace into a cache; see `KVCache`.

    Args:
        path: The file.
        namespace: The 16-byte digest of the tree.
        planner: Plans what is to be done.
        executor: Does it.
        group: With whom.
        settle: Returns when nothing is under way any more.
        progress: Hears how far it is.
    """
    with ChunkFile(_own_file(path, group)) as file:
        form = _stored_form(executor, group)
        if file.form != form:
            raise ChunkFileError(
                f"{file.path}: of another layout or rank: expected {form}, got {file.form}"
            )
        if file.digests and namespace not in file.digests:
            found = ", ".join(digest.hex() for digest in file.digests)
            raise ChunkFileError(
                f"{file.path}: nothing of namespace {namespace.hex()} (another model, adapter or "
                f"salt), but of {found}"
            )
        _require_alike(group.gather(file.digest))
        return _Importer(file, namespace, planner, settle).take(progress)


class DiskPayloads:
    """The bytes of chunks on disk, by their extents, read beside the file's owner.

    Args:
        file: As it is when the chunks were asked for.
    """

    def __init__(self, file: DiskInspection) -> None:
        self._file = file
        offsets = file.chunks.disk_offset.tolist()
        self._rows = {offset: row for row, offset in enumerate(offsets)}
        self._ends = np.cumsum(file.chunks.num_tokens, dtype=np.int64)

    def read(self, disk_offset: int, tokens: NDArray[np.uint32]) -> bytes | None:
        """The chunk of these tokens in stored form; None where another one is there, or damage."""
        row = self._rows.get(disk_offset)
        if row is None:
            return None
        end = int(self._ends[row])
        own = self._file.chunks.tokens[end - int(self._file.chunks.num_tokens[row]) : end]
        return self._file.read(row) if np.array_equal(own, tokens) else None


def write_chunks(
    writer: ChunkFileWriter,
    subtree: Subtree,
    namespace: bytes,
    read_memory: Callable[[int, int], bytes] | None,
    disk: DiskPayloads | None,
    *,
    progress: Progress = nothing,
) -> Transplanted:
    """Write the chunks of a subtree to a file that the caller commits.

    Args:
        writer: Of the file.
        subtree: Walked with its path, in an index in which nothing is being written.
        namespace: The 16-byte digest of its tree.
        read_memory: Gives so many bytes from a unit of the memory tier on.
        disk: Gives what only the disk has.
        progress: Hears how far it is.
    """
    token_bytes = writer.form.token_bytes
    rows = np.full(len(subtree), -1, np.int64)  # in the file, -1 for what is not there
    num_tokens = num_damaged = num_left = 0
    end = 0
    for at, chunk in enumerate(subtree.chunks):
        progress(at, len(subtree))
        count = int(chunk["num_tokens"])
        tokens = subtree.tokens[end : end + count]
        end += count
        parent = int(subtree.parent_index[at])
        if parent >= 0 and rows[parent] < 0:
            num_left += 1
            continue
        payload = None
        if read_memory is not None and chunk["memory_offset"] != NO_EXTENT:
            payload = read_memory(int(chunk["memory_offset"]), count * token_bytes)
        elif disk is not None and chunk["disk_offset"] != NO_EXTENT:
            payload = disk.read(int(chunk["disk_offset"]), tokens)
        if payload is None or len(payload) != count * token_bytes:
            num_damaged += 1
            continue
        above = int(rows[parent]) if parent >= 0 else -1
        time = int(subtree.time[at])
        rows[at] = writer.add(payload, tokens, parent=above, namespace=namespace, time=time)
        num_tokens += count
    progress(len(subtree), len(subtree))
    return Transplanted(int((rows >= 0).sum()), num_tokens, num_damaged, num_left)


class _Importer:
    """Takes in path after path, a bounded piece at a time."""

    def __init__(
        self, file: ChunkFile, namespace: bytes, planner: Planner, settle: Callable[[], object]
    ) -> None:
        self._file, self._namespace, self._planner, self._settle = file, namespace, planner, settle
        self._tree = planner.index.namespace(namespace)
        self._taken: set[int] = set()  # rows of the file
        self._damaged: set[int] = set()
        chunk_bytes = file.form.chunk_tokens * file.form.token_bytes
        memory_bytes = int(planner.levels()["memory_size_bytes"])
        self._piece = max(1, min(_PIECE_BYTES, memory_bytes // 4) // chunk_bytes)

    def take(self, progress: Progress) -> Transplanted:
        """Take in all; what was used last comes last, so that it stays where room is short."""
        seen = np.zeros(len(self._file), bool)
        total = self._file.count(self._namespace)
        for rows in self._file.paths(self._namespace):
            self._take_path(rows)
            seen[rows] = True
            progress(int(seen.sum()), total)
        taken = np.array(sorted(self._taken), np.int64)
        num_left = total - len(taken) - len(self._damaged)
        num_tokens = self._file.num_tokens(taken)
        return Transplanted(len(taken), num_tokens, len(self._damaged), num_left)

    def _take_path(self, rows: NDArray[np.int64]) -> None:
        """Take in a prompt, from its first chunk on, until one is damaged or has no room."""
        planner, tree = self._planner, self._tree
        tokens, ends = self._file.tokens(rows), self._file.ends(rows)
        if planner.index.match(tokens, tree).num_tokens == len(tokens):
            return
        time = planner.new_admission()
        for last in range(self._piece - 1, len(rows) + self._piece - 1, self._piece):
            limit = int(ends[min(last, len(rows) - 1)])
            planner.plant(
                tokens,
                lambda spans: self._read(rows[spans]),
                time=time,
                namespace=tree,
                limit=limit,
            )
            self._settle()
            if planner.index.match(tokens, tree, limit=limit).num_memory_tokens < limit:
                return

    def _read(self, rows: NDArray[np.int64]) -> list[bytes]:
        payloads: list[bytes] = []
        for row in rows.tolist():
            payload = self._file.payload(row)
            if payload is None:
                self._damaged.add(row)
                break
            payloads.append(payload)
            self._taken.add(row)
        return payloads


def _stored_form(executor: Executor, group: RankGroup) -> StoredForm:
    layout, chunk_tokens = executor.layout, executor.chunk_tokens
    return StoredForm(
        layout.digest(chunk_tokens), chunk_tokens, layout.token_bytes, group.rank, group.size
    )


def _own_file(path: str | os.PathLike[str], group: RankGroup) -> str:
    return os.fspath(path) + (f".rank{group.rank}" if group.size > 1 else "")


def _require_alike(digests: Sequence[bytes]) -> None:
    """Refuse files of several ranks that have not the same chunks."""
    if len(set(digests)) > 1:
        raise ChunkFileError(
            "the ranks' files have not the same chunks: export them together, from disks that are "
            "whole (radixkv inspect --verify)"
        )
