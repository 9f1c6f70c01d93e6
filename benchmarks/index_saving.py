"""How long does it take to open a saved index of a million chunks, and to save it?

Half of the chunks are in memory, and all are on disk, as an engine would have them. A part of
`benchmarks/index.py`; its baseline is to read the file's bytes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from harness import emit, interleave, progress

from radixkv import RadixIndex

NUM_CHUNKS = 1_000_000
CHUNK_TOKENS = 64
PROMPT_CHUNKS = 2048
KINDS = ("saved",)


def build() -> RadixIndex:
    """Prompts of 131,072 random tokens on disk, and what of them memory has room for."""
    index = RadixIndex(
        CHUNK_TOKENS,
        token_bytes=1024,
        memory_bytes=NUM_CHUNKS // 2 * CHUNK_TOKENS * 1024,
        disk_bytes=2 * NUM_CHUNKS * CHUNK_TOKENS * 1024,
    )
    rng = np.random.default_rng(1)
    number = 0
    while index.stats().disk.ready_chunks < NUM_CHUNKS:
        number += 1
        tokens = rng.integers(0, 128_000, PROMPT_CHUNKS * CHUNK_TOKENS, dtype=np.uint32)
        index.insert(tokens, time=number)
        while len(chunks := index.reserve_spill(PROMPT_CHUNKS)[0]) > 0:
            index.complete_spill(chunks, len(chunks))
    return index


def run(_: str) -> None:
    progress("saved: building")
    index = build()
    num_chunks = index.stats().chunks
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = Path(folder, "index")

        def save() -> float:
            begin = time.perf_counter()
            index.save(file)
            return time.perf_counter() - begin

        def load() -> float:
            begin = time.perf_counter()
            opened = RadixIndex.open(file)
            seconds = time.perf_counter() - begin
            assert opened.stats().chunks == num_chunks
            return seconds

        def read() -> float:
            begin = time.perf_counter()
            file.read_bytes()
            return time.perf_counter() - begin

        times = interleave({"save": save, "load": load, "read": read})
        size = file.stat().st_size
    emit(
        "index.load_1m_chunks_s",
        times["load"],
        "s",
        chunks=num_chunks,
        file_bytes=size,
        baseline=("reading the file", times["read"]),
    )
    emit("index.save_1m_chunks_s", times["save"], "s", chunks=num_chunks, file_bytes=size)
