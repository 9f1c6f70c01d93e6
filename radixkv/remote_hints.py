"""What a remote server is known to have had, until it says otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixkv.index import RadixIndex
from radixkv.layout import UNIT_ALIGNMENT

_MOST_CHUNKS = 1 << 16  # of 64 tokens: some 20 MB, for 4 million tokens

Tokens = NDArray[np.uint32]


class RemoteHints:
    """The prefixes that one server had when it was asked; those asked about last, if they are many.

    With a hint chunks are asked for at once, and the answer to a lookup not waited for. It is worth
    nothing else: a chunk counts when it has arrived. A hint goes when a lookup or a get shows that
    it is wrong, and all go when the server fails, since it may come back empty.

    Args:
        chunk_tokens: Tokens of a chunk.
    """

    def __init__(self, chunk_tokens: int) -> None:
        # A tree without bytes: of one unit each, whatever they hold.
        self._tree = RadixIndex(
            chunk_tokens, memory_bytes=_MOST_CHUNKS * UNIT_ALIGNMENT, unit_bytes=UNIT_ALIGNMENT
        )
        self._chunk_tokens = chunk_tokens
        self._time = 0

    def known(self, tokens: Tokens, namespace: int) -> int:
        """How many of the tokens, from the front, the server had."""
        tree = self._tree_of(namespace)
        num_tokens = self._tree.match(tokens, tree, release_gil=False).num_tokens
        return num_tokens - num_tokens % self._chunk_tokens

    def note(self, tokens: Tokens, namespace: int, end: int) -> None:
        """It has the first `end` tokens, and not the chunk behind them, if they have one."""
        tree, end = self._tree_of(namespace), end - end % self._chunk_tokens
        next_end = end + self._chunk_tokens
        if len(tokens) >= next_end:
            self._tree.drop(tokens[:next_end], tree)
        self._time += 1
        self._tree.insert(tokens[:end], tree, time=self._time, release_gil=False)

    def forget(self) -> None:
        """It may have nothing any more."""
        self._tree.clear_all()

    def _tree_of(self, namespace: int) -> int:
        """The tree of a namespace that has this number elsewhere."""
        return self._tree.namespace(namespace.to_bytes(16, "little"))
