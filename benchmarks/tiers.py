"""How close do the tiers come to the machine's own memcpy, disk and sockets?

    python benchmarks/tiers.py [FOLDER] [--million]

FOLDER is on the file system to measure, ./build by default. With --million nothing is measured but
how long a disk of a million chunks takes to open: 22 GB of it, and two minutes.

Chunks are those of an 8B model: 64 tokens, 8 MiB. The baselines are a plain memcpy with as many
threads, and the best point of a fixed grid of fio (1 and 8 MiB, depth 2, 4 and 8, with and without
registered buffers, O_DIRECT, random order, one sync at the end). `remotes.py` has the remote tiers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import remotes
from harness import emit, interleave, progress
from remotes import run

from radixkv.commands import (
    CHUNK_DTYPE,
    NO_EXTENT,
    ChunkArray,
    Clear,
    Fetch,
    Load,
    Spill,
    Store,
)
from radixkv.executor import Executor
from radixkv.index import RadixIndex
from radixkv.layout import EngineMemory, KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(num_layers=32, num_kv=2, row_bytes=2048, dtype="bfloat16")
CHUNK_TOKENS = 64
CHUNK_BYTES = LAYOUT.token_bytes * CHUNK_TOKENS
NUM_CHUNKS = 128
NUM_TOKENS = NUM_CHUNKS * CHUNK_TOKENS
PAYLOAD_BYTES = NUM_CHUNKS * CHUNK_BYTES
NUM_THREADS = 2
CHUNKS_PER_SPILL = 8
OVERHEAD_REPEATS = 20
FIO_GRID = list(itertools.product(("1M", "8M"), (2, 4, 8), (0, 1)))

OPEN_PATH_CHUNKS = 1000
OPEN_LAYOUT = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="uint8")

command_ids = itertools.count(1)


def make_engine(layout: KVLayout, num_slots: int) -> tuple[EngineMemory, list[np.ndarray]]:
    """One buffer a row, each with other bytes in every slot."""
    random = np.random.default_rng(0)
    buffers = [
        random.integers(0, 256, (num_slots, layout.row_bytes), np.uint8)
        for _ in range(layout.num_rows)
    ]
    addresses = np.array([buffer.ctypes.data for buffer in buffers], np.uint64)
    strides = np.full(layout.num_rows, layout.row_bytes, np.int64)
    return EngineMemory(addresses, strides, num_slots, owner=buffers), buffers


def make_chunks(executor: Executor, num_chunks: int, generation: int = 1) -> ChunkArray:
    """First chunks of as many prompts, at the place of their number in memory."""
    units = CHUNK_BYTES // executor.unit_bytes if executor.layout is LAYOUT else 1
    chunks = np.zeros(num_chunks, CHUNK_DTYPE)
    chunks["id"] = np.arange(num_chunks)
    chunks["generation"] = generation
    chunks["memory_offset"] = np.arange(num_chunks) * units
    chunks["disk_offset"] = np.arange(num_chunks) * units
    chunks["parent_disk_offset"] = NO_EXTENT
    chunks["num_tokens"] = chunks["count"] = executor.chunk_tokens
    chunks["num_units"] = units
    return chunks


def slots_by_chunk(seed: int) -> np.ndarray:
    """Chunks anywhere in the engine, the tokens of each side by side."""
    starts = np.random.default_rng(seed).permutation(NUM_CHUNKS) * CHUNK_TOKENS
    return (starts[:, None] + np.arange(CHUNK_TOKENS)).ravel().astype(np.int64)


def plain_memcpy(threads: ThreadPoolExecutor) -> Callable[[], float]:
    source = np.ones((NUM_CHUNKS, CHUNK_BYTES), np.uint8)
    target = np.ones_like(source)

    def copy(first: int) -> None:
        for chunk in range(first, NUM_CHUNKS, NUM_THREADS):
            np.copyto(target[chunk], source[chunk])

    def measure() -> float:
        begun = time.perf_counter()
        list(threads.map(copy, range(NUM_THREADS)))
        return PAYLOAD_BYTES / (time.perf_counter() - begun) / 1e9

    return measure


def measure_memory() -> None:
    memory, buffers = make_engine(LAYOUT, NUM_TOKENS)
    before = [buffer.copy() for buffer in buffers[:2]]
    slots = slots_by_chunk(seed=1)
    with (
        Executor(LAYOUT, memory_bytes=PAYLOAD_BYTES, num_copy_threads=NUM_THREADS) as executor,
        ThreadPoolExecutor(NUM_THREADS) as threads,
    ):
        executor.attach(memory)
        chunks = make_chunks(executor, NUM_CHUNKS)

        def rate(kind: type[Store] | type[Load]) -> float:
            return PAYLOAD_BYTES / run(executor, [kind(next(command_ids), chunks, slots)]) / 1e9

        rates = interleave(
            {
                "memcpy": plain_memcpy(threads),
                "store": lambda: rate(Store),
                "load": lambda: rate(Load),
            }
        )
    assert all((now == then).all() for now, then in zip(buffers, before, strict=False))
    for name in ("store", "load"):
        baseline = ("a plain memcpy", rates["memcpy"])
        emit(f"memory.{name}_gbps", rates[name], "GB/s", baseline=baseline)


def measure_overhead() -> None:
    memory, _ = make_engine(LAYOUT, NUM_TOKENS)
    slots = slots_by_chunk(seed=2)
    with Executor(
        LAYOUT, memory_bytes=PAYLOAD_BYTES, num_copy_threads=NUM_THREADS, copies_rows=False
    ) as executor:
        executor.attach(memory)
        chunks = make_chunks(executor, NUM_CHUNKS)

        def overhead_us(kind: type[Store] | type[Load]) -> float:
            times = [
                run(executor, [kind(next(command_ids), chunks, slots)])
                for _ in range(OVERHEAD_REPEATS)
            ]
            return median(times) / NUM_CHUNKS * 1e6

        times = interleave({"store": lambda: overhead_us(Store), "load": lambda: overhead_us(Load)})
    for name, values in times.items():
        emit(f"memory.{name}_overhead_us_per_chunk", values, "us", chunks_per_command=NUM_CHUNKS)


class DiskCase:
    """Writes and reads all chunks, each time in another order."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.chunks = make_chunks(executor, NUM_CHUNKS)
        self.random = np.random.default_rng(3)
        memory, _ = make_engine(LAYOUT, CHUNK_TOKENS)
        executor.attach(memory)
        self.slots = np.tile(np.arange(CHUNK_TOKENS), NUM_CHUNKS)

    def write(self) -> float:
        # What lay there before is dropped first, as an eviction does.
        run(self.executor, [Clear(next(command_ids), self.chunks)])
        units = self.chunks["num_units"][0]
        self.chunks["generation"] += 1
        self.chunks["disk_offset"] = self.random.permutation(NUM_CHUNKS) * units
        run(self.executor, [Store(next(command_ids), self.chunks, self.slots)])
        tokens = np.arange(CHUNKS_PER_SPILL * CHUNK_TOKENS, dtype=np.uint32)
        commands = [
            Spill(next(command_ids), part, tokens, bytes(16), next(command_ids) * NUM_CHUNKS)
            for part in np.split(self.chunks, NUM_CHUNKS // CHUNKS_PER_SPILL)
        ]
        return PAYLOAD_BYTES / run(self.executor, commands) / 1e9

    def read(self) -> float:
        order = self.random.permutation(self.chunks)
        commands = [
            Fetch(next(command_ids), part)
            for part in np.split(order, NUM_CHUNKS // CHUNKS_PER_SPILL)
        ]
        return PAYLOAD_BYTES / run(self.executor, commands) / 1e9


def fio(path: Path, direction: str, block: str, depth: int, registered: int) -> float:
    options = {
        "name": "grid",
        "filename": path,
        "size": PAYLOAD_BYTES,
        "rw": f"rand{direction}",
        "bs": block,
        "iodepth": depth,
        "ioengine": "io_uring",
        "fixedbufs": registered,  # known only once the engine is
        "direct": 1,
        "end_fsync": 1,
        "output-format": "json",
    }
    command = ["fio", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["jobs"][0][direction]["bw_bytes"]) / 1e9


def measure_disk(folder: Path) -> None:
    options = DiskOptions(folder / "kv", int(PAYLOAD_BYTES * 1.02))
    with Executor(LAYOUT, memory_bytes=PAYLOAD_BYTES, disk=options) as executor:
        case = DiskCase(executor)
        cases: dict[str, Callable[[], float]] = {"write": case.write, "read": case.read}
        if shutil.which("fio") is None:
            progress("  fio is not installed: disk rates have no baseline")
        else:
            for direction, point in itertools.product(("write", "read"), FIO_GRID):
                cases[f"fio {direction} {point}"] = lambda direction=direction, point=point: fio(
                    folder / "fio", direction, *point
                )
        rates = interleave(cases)
        io_engine = executor.io_engine
    for name in ("write", "read"):
        grid = {key: median(values) for key, values in rates.items() if f"fio {name}" in key}
        best = max(grid, key=lambda key: grid[key], default=None)
        baseline = None
        if best is not None:
            baseline = (f"fio {best.removeprefix(f'fio {name} ')}", rates[best])
        emit(f"disk.{name}_gbps", rates[name], "GB/s", baseline=baseline, io_engine=io_engine)


def fill_for_open(options: DiskOptions, num_chunks: int) -> None:
    """Spills prompts of many chunks each."""
    with Executor(OPEN_LAYOUT, memory_bytes=OPEN_PATH_CHUNKS * 4096, disk=options) as executor:
        memory, _ = make_engine(OPEN_LAYOUT, CHUNK_TOKENS)
        executor.attach(memory)
        chunks = make_chunks(executor, OPEN_PATH_CHUNKS)
        slots = np.tile(np.arange(CHUNK_TOKENS), OPEN_PATH_CHUNKS)
        run(executor, [Store(next(command_ids), chunks, slots)])
        chunks["span"] = np.arange(OPEN_PATH_CHUNKS)
        for first in range(0, num_chunks, OPEN_PATH_CHUNKS):
            chunks["disk_offset"] = first + np.arange(OPEN_PATH_CHUNKS)
            chunks["parent_disk_offset"][1:] = chunks["disk_offset"][:-1]
            tokens = np.arange(OPEN_PATH_CHUNKS * CHUNK_TOKENS, dtype=np.uint32) + first
            run(executor, [Spill(next(command_ids), chunks, tokens, bytes(16), first)])


def measure_open(folder: Path, name: str, num_chunks: int) -> None:
    # Four units a chunk is what the header region is made for.
    capacity_bytes = int(4.2 * num_chunks) * (4096 + 1024)
    options = DiskOptions(folder / "many", capacity_bytes, durable="none")
    progress(f"  writing {num_chunks} chunks")
    fill_for_open(options, num_chunks)
    tree_times: list[float] = []

    def reopen() -> float:
        begun = time.perf_counter()
        with Executor(OPEN_LAYOUT, memory_bytes=1 << 20, disk=options) as executor:
            restored = executor.restored
            assert restored is not None
            index = RadixIndex(
                CHUNK_TOKENS,
                OPEN_LAYOUT.token_bytes,
                memory_bytes=1 << 20,
                disk_bytes=executor.disk_units * executor.unit_bytes,
            )
            opened = time.perf_counter()
            index.restore_disk(
                restored.parent_index,
                restored.num_tokens,
                restored.tokens,
                restored.disk_offset,
                restored.num_units,
                restored.namespace_index,
                restored.digests,
                restored.sequence,
            )
            ended = time.perf_counter()
            assert len(restored) == num_chunks
        tree_times.append(ended - opened)
        return ended - begun

    times = interleave({"open": reopen})
    emit(
        f"disk.open_{name}_chunks_s",
        times["open"],
        "s",
        of_which_tree_s=round(median(tree_times[1:]), 4),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path("build"))
    arguments.add_argument("--million", action="store_true")
    chosen = arguments.parse_args()
    parent = chosen.folder
    parent.mkdir(parents=True, exist_ok=True)
    if chosen.million:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            measure_open(Path(folder), "1m", 1_000_000)
        return
    progress("memory: bytes")
    measure_memory()
    progress("memory: all but the bytes")
    measure_overhead()
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        progress("disk: bytes, beside fio")
        measure_disk(Path(folder))
        progress("disk: open again")
        measure_open(Path(folder), "100k", 100_000)
    remotes.main()


if __name__ == "__main__":
    main()
