"""Chunks with their bytes in one file, to be taken to another machine.

    magic | payload payload … payload | directory | footer

The directory says what the chunks are and where their payloads lie: parents before their children,
each payload in stored form, with a checksum of its own. The footer, at the very end, has the
layout, the directory's place, and checksums of both. So a file that was cut is refused whole, and a
payload that was spoilt costs that chunk and what lies below it.

A file takes the place of another one only once it is whole and on the disk. Its user alone may
read it, since it holds prompts. Until then it is a draft beside it, locked by who writes it: what a
process that was killed left, nobody locks, and the next writer of that name removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.errors import ChunkFileError

_MAGIC = b"RKVCHUNK"
_VERSION = 1
# magic, version, chunk_tokens, token_bytes, rank, world_size, layout digest; numbers of namespaces,
# chunks and tokens; where the directory begins, its checksum; checksum of the footer so far
_FOOTER = struct.Struct("<8sIIQII16s6Q")

_ROW = np.dtype(
    [
        ("parent", "<i8"),  # row of the parent, -1 for the first chunk of a prompt
        ("offset", "<u8"),  # of the payload in the file
        ("checksum", "<u8"),  # of the payload
        ("time", "<u8"),  # recency: the larger, the later
        ("namespace", "<u4"),  # into the digests
        ("num_tokens", "<u4"),
    ]
)


@dataclass(frozen=True, slots=True)
class StoredForm:
    """What the bytes of a file's chunks mean.

    Attributes:
        layout_digest: From `KVLayout.digest`.
        chunk_tokens: Tokens of a full chunk.
        token_bytes: Bytes of one token on one rank.
        rank: Whose part of each chunk it is.
        world_size: Ranks that have a part.
    """

    layout_digest: bytes
    chunk_tokens: int
    token_bytes: int
    rank: int = 0
    world_size: int = 1


class ChunkFileWriter:
    """Writes chunks to a file, one after the other; it has its name only after `commit`.

    Args:
        path: The file.
        form: What its bytes mean.

    Raises:
        OSError: It cannot be written; what had that name before is as it was.
    """

    def __init__(self, path: str | os.PathLike[str], form: StoredForm) -> None:
        self.path = Path(path)
        self.form = form
        self._digests: dict[bytes, int] = {}
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._tokens: list[NDArray[np.uint32]] = []
        _require_replaceable(self.path)
        try:
            self._draft, draft = _open_draft(self.path)
        except OSError as error:  # of a name that the caller does not know
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        _remove_abandoned(self.path)
        self._file: BinaryIO = os.fdopen(draft, "wb")
        self._file.write(_MAGIC)
        self._num_bytes = len(_MAGIC)

    def add(
        self,
        payload: bytes,
        tokens: NDArray[np.uint32],
        *,
        parent: int,
        namespace: bytes,
        time: int,
    ) -> int:
        """Append a chunk.

        Args:
            payload: Its bytes in stored form.
            tokens: Its own tokens. Shape: (n,), uint32.
            parent: What `add` gave for the chunk before it, -1 for the first of a prompt.
            namespace: The 16-byte digest of its tree.
            time: Its recency.

        Returns:
            The chunk's row.
        """
        self._file.write(payload)
        space = self._digests.setdefault(namespace, len(self._digests))
        row = (parent, self._num_bytes, checksum(payload), time, space, len(tokens))
        self._rows.append(row)
        self._tokens.append(tokens)
        self._num_bytes += len(payload)
        return len(self._rows) - 1

    def commit(self) -> int:
        """Bring the file to the disk and give it its name; gives its length in bytes."""
        tokens = np.concatenate([np.empty(0, np.uint32), *self._tokens])
        directory = b"".join([*self._digests, self._table().tobytes(), tokens.tobytes()])
        form = self.form
        footer = _FOOTER.pack(
            *(_MAGIC, _VERSION, form.chunk_tokens, form.token_bytes, form.rank, form.world_size),
            *(form.layout_digest, len(self._digests), len(self._rows), len(tokens)),
            *(self._num_bytes, checksum(directory), 0),
        )[:-8]
        self._file.write(directory + footer + checksum(footer).to_bytes(8, "little"))
        self._file.flush()
        os.fsync(self._file.fileno())
        num_bytes = self._file.tell()
        self._draft.replace(self.path)  # while it is locked
        self._file.close()
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return num_bytes

    @property
    def digest(self) -> bytes:
        """As `ChunkFile.digest` will be."""
        return _digest(list(self._digests), self._table(), self._tokens)

    def close(self) -> None:
        """Give up what was not committed. May be called twice."""
        try:
            self._file.close()  # writes what is buffered: on a full disk it fails once more
        finally:
            self._draft.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _table(self) -> NDArray[np.void]:
        return np.array(self._rows, _ROW)


class ChunkFile:
    """A file of chunks, opened to be read.

    Args:
        path: The file.

    Attributes:
        path: The file.
        form: What the payloads mean.
        digests: The namespaces' digests.
        digest: Equal where files have the same chunks, as those of an engine's ranks must.

    Raises:
        ChunkFileError: It is no file of chunks, was cut, or its directory is damaged.
        OSError: It cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: BinaryIO = self.path.open("rb")
        try:
            self._read_directory()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def paths(self, namespace: bytes) -> Iterator[NDArray[np.int64]]:
        """Rows of each path from a first chunk to a leaf, those least recently used first."""
        own = self._rows["namespace"] == self._space(namespace)
        is_leaf = own.copy()
        is_leaf[self._rows["parent"][own & (self._rows["parent"] >= 0)]] = False
        leaves = np.flatnonzero(is_leaf)
        for leaf in leaves[np.argsort(self._rows["time"][leaves], kind="stable")].tolist():
            path = [leaf]
            while (parent := int(self._rows["parent"][path[-1]])) >= 0:
                path.append(parent)
            yield np.array(path[::-1], np.int64)

    def count(self, namespace: bytes) -> int:
        """Chunks of a namespace."""
        return int((self._rows["namespace"] == self._space(namespace)).sum())

    def longest_path(self) -> int:
        """Chunks of the prompt that has most of them."""
        lengths: list[int] = []
        for parent in self._rows["parent"].tolist():
            lengths.append(1 + (lengths[parent] if parent >= 0 else 0))
        return max(lengths, default=0)

    def tokens(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The tokens of some chunks, one after the other."""
        parts = (self._tokens[self._token_ends[row] - self._counts[row] :] for row in rows)
        counts = (self._counts[row] for row in rows)
        return np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)])

    def num_tokens(self, rows: NDArray[np.int64]) -> int:
        """How many tokens some chunks have together."""
        return int(self._counts[rows].sum())

    def ends(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each chunk of a path ends, in tokens from the beginning of the prompt."""
        return np.cumsum(self._counts[rows])

    def payload(self, row: int) -> bytes | None:
        """The bytes of a chunk in stored form; None where they are damaged."""
        self._file.seek(int(self._rows["offset"][row]))
        num_bytes = int(self._counts[row]) * self.form.token_bytes
        payload = self._file.read(num_bytes)
        is_good = len(payload) == num_bytes and checksum(payload) == self._rows["checksum"][row]
        return payload if is_good else None

    def _space(self, namespace: bytes) -> int:
        return self.digests.index(namespace) if namespace in self.digests else -1

    def _read_directory(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if self._file.read(len(_MAGIC)) != _MAGIC:
            raise ChunkFileError(f"{self.path}: not a file of chunks")
        self._file.seek(max(size - _FOOTER.size, 0))
        footer = self._file.read(_FOOTER.size)
        if len(footer) < _FOOTER.size or checksum(footer[:-8]) != int.from_bytes(
            footer[-8:], "little"
        ):
            raise ChunkFileError(f"{self.path}: it was cut, or its end is damaged")
        _, version, chunk_tokens, token_bytes, *rest = _FOOTER.unpack(footer)
        rank, world_size, layout, num_spaces, num_rows, num_tokens, begin, expected, _ = rest
        if version != _VERSION:
            raise ChunkFileError(f"{self.path}: of format {version}, expected {_VERSION}")
        rows_begin = 16 * num_spaces
        tokens_begin = rows_begin + num_rows * _ROW.itemsize
        num_bytes = tokens_begin + 4 * num_tokens
        directory = b""
        if begin + num_bytes + _FOOTER.size == size:
            self._file.seek(begin)
            directory = self._file.read(num_bytes)
        if len(directory) < num_bytes or checksum(directory) != expected:
            raise ChunkFileError(f"{self.path}: its directory is damaged")
        self.form = StoredForm(layout, chunk_tokens, token_bytes, rank, world_size)
        self.digests = [directory[at : at + 16] for at in range(0, rows_begin, 16)]
        self._rows = np.frombuffer(directory[rows_begin:tokens_begin], _ROW)
        self._tokens = np.frombuffer(directory[tokens_begin:], np.uint32)
        self.digest = _digest(self.digests, self._rows, [self._tokens])
        self._counts = self._rows["num_tokens"].astype(np.int64)
        self._token_ends = np.cumsum(self._counts)
        if not self._is_sound() or np.any(self._rows["offset"] > begin):
            raise ChunkFileError(f"{self.path}: its directory contradicts itself")

    def _is_sound(self) -> bool:
        """Whether it is what a writer writes: a checksum says nothing about who made it."""
        rows, counts = self._rows, self._counts
        child = np.flatnonzero(rows["parent"] >= 0)
        parent = rows["parent"][child]
        return bool(
            np.all((counts >= 1) & (counts <= self.form.chunk_tokens))
            and counts.sum() == len(self._tokens)
            and np.all(rows["namespace"] < len(self.digests))
            and np.all((rows["parent"] >= -1) & (rows["parent"] < np.arange(len(rows))))
            and np.all(counts[parent] == self.form.chunk_tokens)
            and np.all(rows["namespace"][parent] == rows["namespace"][child])
        )


def _require_replaceable(path: Path) -> None:
    """To be renamed over a device, a pipe or a link to one would take that away from everybody."""
    if path.exists() and not path.is_file():
        problem = errno.EISDIR if path.is_dir() else errno.EEXIST
        raise OSError(problem, os.strerror(problem), os.fspath(path))


def _open_draft(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, open and locked; gives its name and its descriptor."""
    while True:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
        opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):  # a file system that knows no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        if os.fstat(opened).st_nlink:
            return draft, opened
        os.close(opened)  # another writer took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of `path` that nobody locks: who wrote them is gone."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.draft")
    for draft in list(path.parent.glob(".*.draft")):
        if not name.fullmatch(draft.name):
            continue
        with contextlib.suppress(OSError):  # locked, another user's, or gone by now
            opened = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()
            finally:
                os.close(opened)


def checksum(data: bytes) -> int:
    """XXH3-64."""
    return _native.checksum(data)


def _digest(
    digests: list[bytes], rows: NDArray[np.void], tokens: list[NDArray[np.uint32]]
) -> bytes:
    digest = hashlib.sha256(b"".join(digests))
    for field in ("parent", "namespace", "num_tokens"):
        digest.update(np.ascontiguousarray(rows[field]).tobytes())
    for part in tokens:
        digest.update(part.tobytes())
    return digest.digest()
