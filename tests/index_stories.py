"""Letters are tokens, two of them a chunk: what the example tests of the index are told with."""

from __future__ import annotations

import numpy as np

from radixkv import RadixIndex
from radixkv.commands import ChunkArray

TOKEN_BYTES = 32768
CHUNK_BYTES = 2 * TOKEN_BYTES


def tokens(text: str) -> np.ndarray:
    """Letters are tokens."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def text_of(ids: np.ndarray) -> str:
    return bytes(ids.astype(np.uint8)).decode()


def make_index(memory_chunks: int = 100, disk_chunks: int = 0, **options: int) -> RadixIndex:
    """Two tokens a chunk; the tiers have room for so many."""
    options = {"chunk_tokens": 2, "token_bytes": TOKEN_BYTES} | options
    return RadixIndex(
        memory_bytes=memory_chunks * CHUNK_BYTES, disk_bytes=disk_chunks * CHUNK_BYTES, **options
    )


def length(index: RadixIndex, text: str) -> int:
    return index.match(tokens(text)).num_tokens


def spill_all(index: RadixIndex) -> None:
    while True:
        chunks, *_ = index.reserve_spill(100)
        if len(chunks) == 0:
            return
        index.complete_spill(chunks, len(chunks))


def reserve(index: RadixIndex, text: str, time: int = 1) -> ChunkArray:
    chunks, missing_units = index.reserve(tokens(text), time=time)
    assert missing_units == 0
    return chunks
