"""What a disk gives by itself: the limit beside which hits on disk are shown."""

from __future__ import annotations

import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK_BYTES = 8 << 20
_MOST_BYTES = 4 << 30
_NUM_THREADS = 4


def read_gbps(folder: Path) -> float:
    """Reads the largest file in a folder past the page cache, a few threads at once; GB/s.

    Raises:
        FileNotFoundError: There is none of a block's size.
        OSError: It cannot be read without the page cache.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    num_bytes = 0 if largest is None else min(largest.stat().st_size, _MOST_BYTES)
    num_blocks = num_bytes // _BLOCK_BYTES
    if largest is None or not num_blocks:
        raise FileNotFoundError(f"{folder} has no file of {_BLOCK_BYTES} bytes")
    file = os.open(largest, os.O_RDONLY | os.O_DIRECT)

    def read(first: int) -> None:
        with mmap.mmap(-1, _BLOCK_BYTES) as block:
            for number in range(first, num_blocks, _NUM_THREADS):
                os.preadv(file, [block], number * _BLOCK_BYTES)

    try:
        began = time.perf_counter()
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            list(threads.map(read, range(_NUM_THREADS)))
        return num_blocks * _BLOCK_BYTES / (time.perf_counter() - began) / 1e9
    finally:
        os.close(file)
