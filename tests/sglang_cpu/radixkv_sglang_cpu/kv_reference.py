"""Which KV is right: rows that a server without any cache computed, and how others compare.

A row is the K or V of one token in one layer. It is known by all tokens up to its own, and was
computed in some batch, split into some chunks. Other batches and splits round differently, by some
1e-6 of a row's length; what was overwritten, mixed up or never written is off by about 1.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4  # of a row's length
_MOST_TOLD = 10  # places that are wrong; all are counted
_KEY_BYTES = 16

Rows = NDArray[np.float32]
"""KV of some tokens. Shape (tokens, layers * (K, V), floats of one row)."""


class PathKeys:
    """Names each position of a sequence of tokens by all tokens up to it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[int], list[bytes]]] = {}

    def of(self, name: str, tokens: list[int]) -> list[bytes]:
        """The keys of a sequence; quick where it is what had this name before, and some more."""
        known, keys = self._known.get(name, ([], []))
        if tokens[: len(known)] != known:
            keys = []
        keys = keys[:]
        for token in tokens[len(keys) :]:
            before = keys[-1] if keys else b""
            keys.append(
                hashlib.sha256(before + int(token).to_bytes(8, "little")).digest()[:_KEY_BYTES]
            )
        self._known[name] = (tokens, keys)
        return keys


class Reference:
    """Right rows in a folder: written by one server, read by others."""

    def __init__(self, folder: Path) -> None:
        self._keys_file = folder / "keys"
        self._rows_file = folder / "rows"
        self._index: dict[bytes, int] = {}
        self._rows: Rows | None = None

    def add(self, keys: list[bytes], rows: Rows) -> None:
        """Writes down rows; those that are there already are left as they are."""
        new = [i for i, key in enumerate(keys) if key not in self._index]
        self._index |= {keys[i]: len(self._index) + n for n, i in enumerate(new)}
        with self._keys_file.open("ab") as file:
            file.write(b"".join(keys[i] for i in new))
        with self._rows_file.open("ab") as file:
            file.write(rows[new].tobytes())

    def find(self, keys: list[bytes], like: Rows) -> tuple[NDArray[np.intp], Rows]:
        """Which of the keys are known, and their rows, shaped as those of `like`."""
        if self._rows is None:
            data = self._keys_file.read_bytes()
            starts = range(0, len(data), _KEY_BYTES)
            self._index = {data[at : at + _KEY_BYTES]: i for i, at in enumerate(starts)}
            self._rows = np.memmap(self._rows_file, np.float32, "r").reshape(-1, *like.shape[1:])
        known = [i for i, key in enumerate(keys) if key in self._index]
        where = [self._index[keys[i]] for i in known]
        return np.array(known, np.intp), self._rows[where]


class Comparison:
    """Compares rows with a reference, and counts by the kind of place where they were found."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._tokens: Counter[str] = Counter()
        self._wrong: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()
        self._largest: Counter[str] = Counter()
        self._told: list[str] = []

    def compare(self, kind: str, keys: list[bytes], rows: Rows, place: str, first: int = 0) -> None:
        """Compares tokens that follow each other.

        Args:
            kind: Under what to count them.
            keys: One for each token.
            rows: Shape (len(keys), …).
            place: Says where they were found, if they are wrong.
            first: Position of the first token.
        """
        known, right = self._reference.find(keys, rows)
        self.skip(kind, len(keys) - len(known))
        if not len(known):
            return
        error = np.linalg.norm(rows[known] - right, axis=-1) / np.linalg.norm(right, axis=-1)
        self._tokens[kind] += len(known)
        self._largest[kind] = max(self._largest[kind], float(error.max()))
        is_wrong = ~(error <= TOLERANCE)  # a NaN is wrong
        if is_wrong.any():
            wrong = known[is_wrong.any(axis=1)]
            self._wrong[kind] += len(wrong)
            self._tell(f"{kind}: {place}", wrong + first, np.flatnonzero(is_wrong.any(axis=0)))

    def skip(self, kind: str, num_tokens: int) -> None:
        """Counts tokens of which is not known what is right."""
        self._unknown[kind] += num_tokens

    def _tell(self, place: str, positions: NDArray[np.intp], buffers: NDArray[np.intp]) -> None:
        if len(self._told) < _MOST_TOLD:
            self._told.append(f"{place}: positions {positions.tolist()}, rows {buffers.tolist()}")

    def describe(self) -> dict[str, Any]:
        """Numbers of tokens by kind, the largest error of a row, and where the first wrong are."""
        return {
            "tokens": dict(self._tokens),
            "wrong": dict(self._wrong),
            "unknown": dict(self._unknown),
            "largest": dict(self._largest),
            "told": self._told,
        }
