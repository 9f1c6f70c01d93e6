"""Helpers of the data plane's tests: an engine in numpy, chunks, and commands that are awaited."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import (
    CHUNK_DTYPE,
    NO_EXTENT,
    ChunkArray,
    Clear,
    Command,
    Completion,
    Fetch,
    Load,
    Spill,
    Store,
)
from radixkv.executor import Executor
from radixkv.layout import EngineMemory, KVLayout

TIMEOUT_S = 30.0
GUARD = 0xA5
NAMESPACE = bytes(range(16))


@dataclass
class FakeEngine:
    """Engine memory in numpy: random rows with a gap after each, and guard bytes around all."""

    layout: KVLayout
    num_slots: int
    gap_bytes: int = 0
    seed: int = 0
    guard_bytes: int = 64
    buffers: list[NDArray[np.uint8]] = field(default_factory=list)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        for _ in range(self.layout.num_rows):
            num_bytes = self.num_slots * self.stride + 2 * self.guard_bytes
            buffer = np.full(num_bytes, GUARD, np.uint8)
            self._rows_of(buffer)[:] = random.integers(
                0, 256, (self.num_slots, self.layout.row_bytes), np.uint8
            )
            self.buffers.append(buffer)

    @property
    def stride(self) -> int:
        return self.layout.row_bytes + self.gap_bytes

    def _rows_of(self, buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        inner = buffer[self.guard_bytes : len(buffer) - self.guard_bytes]
        return inner.reshape(self.num_slots, self.stride)[:, : self.layout.row_bytes]

    def rows(self, row: int) -> NDArray[np.uint8]:
        """View of one layer's K or V. Shape: (num_slots, row_bytes), uint8."""
        return self._rows_of(self.buffers[row])

    def memory(self) -> EngineMemory:
        addresses = [buffer.ctypes.data + self.guard_bytes for buffer in self.buffers]
        return EngineMemory(
            addresses=np.array(addresses, np.uint64),
            strides_bytes=np.full(len(self.buffers), self.stride, np.int64),
            num_slots=self.num_slots,
            owner=self,
        )

    def token_bytes(self, slots: NDArray[np.int64]) -> bytes:
        """The stored form of a chunk made of these slots: [row][token][bytes]."""
        return b"".join(self.rows(row)[slots].tobytes() for row in range(self.layout.num_rows))

    def poison(self) -> None:
        """Overwrite every row, so that what is not written by a load shows."""
        for row in range(self.layout.num_rows):
            self.rows(row)[:] = 0xEE

    def guards_are_intact(self) -> bool:
        """Whether no byte outside the rows has changed."""
        for buffer in self.buffers:
            copy = buffer.copy()
            self._rows_of(copy)[:] = GUARD
            if (copy != GUARD).any():
                return False
        return True


def chunk(
    executor: Executor,
    index: int,
    *,
    num_tokens: int | None = None,
    generation: int = 1,
    parent: int | None = None,
    span: int = 0,
    first: int = 0,
    count: int | None = None,
    disk: int | None = None,
) -> ChunkArray:
    """Chunk `index` at the place of its number in both tiers, as an array of one."""
    if num_tokens is None:
        num_tokens = executor.chunk_tokens
    units_per_chunk = units_of(executor, executor.chunk_tokens)
    record = np.zeros(1, CHUNK_DTYPE)
    record["id"] = index
    record["generation"] = generation
    record["memory_offset"] = index * units_per_chunk
    record["disk_offset"] = (index if disk is None else disk) * units_per_chunk
    record["parent_disk_offset"] = NO_EXTENT if parent is None else parent * units_per_chunk
    record["span"] = span
    record["num_tokens"] = num_tokens
    record["num_units"] = units_of(executor, num_tokens)
    record["first"] = first
    record["count"] = num_tokens - first if count is None else count
    return record


def path_of_chunks(executor: Executor, indexes: list[int], *, generation: int = 1) -> ChunkArray:
    """Full chunks, each the parent of the next, from the root down."""
    records = [
        chunk(executor, index, span=span, parent=indexes[span - 1] if span else None)
        for span, index in enumerate(indexes)
    ]
    chunks = np.concatenate(records)
    chunks["generation"] = generation
    return chunks


def units_of(executor: Executor, num_tokens: int) -> int:
    return -(-num_tokens * executor.layout.token_bytes // executor.unit_bytes)


def tokens_of(chunks: ChunkArray, seed: int = 0) -> NDArray[np.uint32]:
    """Tokens that follow from the chunks' ids, so that another process makes the same."""
    parts = [
        np.random.default_rng([seed, int(record["id"])]).integers(
            0, 2**32, int(record["num_tokens"]), np.uint32
        )
        for record in chunks
    ]
    return np.concatenate(parts)


def run(executor: Executor, *commands: Command) -> list[Completion]:
    """Submit commands and wait for all of them; completions in the order of the commands."""
    for command in commands:
        executor.submit(command)
    found: dict[int, Completion] = {}
    while len(found) < len(commands):
        completions = executor.poll()
        if not completions:
            before = len(found)
            executor.wait(TIMEOUT_S)
            completions = executor.poll()
            assert completions, f"nothing ended after {before} of {len(commands)} commands"
        found.update({completion.command_id: completion for completion in completions})
    return [found[command.command_id] for command in commands]


class Ids:
    """Numbers commands."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> int:
        self.last += 1
        return self.last


_next_id = Ids()


def store(executor: Executor, chunks: ChunkArray, slots: NDArray[np.int64]) -> Completion:
    return run(executor, Store(_next_id(), chunks, slots))[0]


def load(executor: Executor, chunks: ChunkArray, slots: NDArray[np.int64]) -> Completion:
    return run(executor, Load(_next_id(), chunks, slots))[0]


def spill(
    executor: Executor,
    chunks: ChunkArray,
    *,
    sequence: int = 1,
    namespace: bytes = NAMESPACE,
    tokens: NDArray[np.uint32] | None = None,
) -> Completion:
    if tokens is None:
        tokens = tokens_of(chunks)
    return run(executor, Spill(_next_id(), chunks, tokens, namespace, sequence))[0]


def fetch(executor: Executor, chunks: ChunkArray) -> Completion:
    return run(executor, Fetch(_next_id(), chunks))[0]


def clear(executor: Executor, chunks: ChunkArray) -> Completion:
    return run(executor, Clear(_next_id(), chunks))[0]


def slots_from(first: int, count: int) -> NDArray[np.int64]:
    return np.arange(first, first + count, dtype=np.int64)
