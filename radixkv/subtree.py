"""The chunks of a subtree as arrays: what a walk of an index gives, and another one takes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import ChunkArray


@dataclass(frozen=True, slots=True)
class Subtree:
    """Chunks of one namespace that are kept, parents before their children.

    Attributes:
        chunks: Shape: (n,), `CHUNK_DTYPE`.
        parent_index: Where each one's parent is, -1 where it is not among them. Shape: (n,), int64.
        tokens: All chunks' tokens, one after the other. Shape: (sum of num_tokens,), uint32.
        time: Recency. Shape: (n,), uint64.
        num_uses: Admissions that found it, after the one that stored it. Shape: (n,), uint16.
    """

    chunks: ChunkArray
    parent_index: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    time: NDArray[np.uint64]
    num_uses: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.chunks)

    def tokens_of(self, index: int) -> NDArray[np.uint32]:
        """The tokens of one chunk, not copied."""
        end = int(self.chunks["num_tokens"][: index + 1].sum())
        return self.tokens[end - int(self.chunks["num_tokens"][index]) : end]

    def prompts(self) -> Iterator[NDArray[np.uint32]]:
        """The tokens of each path from the root to a leaf.

        Raises:
            ValueError: It was walked without its path, so the tokens before it are not known.
        """
        if np.any((self.parent_index < 0) & (self.chunks["span"] > 0)):
            raise ValueError("subtree: expected one with its path, got one that begins below")
        ends = np.cumsum(self.chunks["num_tokens"], dtype=np.int64)
        begins = ends - self.chunks["num_tokens"]
        is_leaf = np.ones(len(self), bool)
        is_leaf[self.parent_index[self.parent_index >= 0]] = False
        for leaf in np.flatnonzero(is_leaf).tolist():
            parts = []
            at = leaf
            while at >= 0:
                parts.append(self.tokens[begins[at] : ends[at]])
                at = int(self.parent_index[at])
            yield np.concatenate(parts[::-1])
