"""Spills path after path until somebody kills it, and says what it begins and what is acknowledged.

    python spill_until_killed.py FOLDER FIRST_ROUND IO_ENGINE DURABLE

Lines on stdout are "begin PATH ROUND" and "done PATH ROUND". What a path's chunks hold follows from
both numbers, so that whoever opens the folder afterwards knows what must be there.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, cast

import numpy as np
from dataplane import NAMESPACE, TIMEOUT_S, FakeEngine, path_of_chunks
from numpy.typing import NDArray

from radixkv.commands import ChunkArray, Clear, CompletionStatus, Spill, Store
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(2, 2, 96, "uint8")
CHUNK_TOKENS = 16
NUM_PATHS = 12
PATH_CHUNKS = 3
PATH_TOKENS = PATH_CHUNKS * CHUNK_TOKENS
NUM_SLOTS = 512
MAX_IN_FLIGHT = 4
CLEAR_IDS = 1 << 40  # ids of Clear and Store commands begin here


def open_tier(folder: str | os.PathLike[str], io_engine: str, durable: str) -> Executor:
    disk = DiskOptions(
        folder,
        2 << 20,
        io_engine=cast(Literal["auto", "threads"], io_engine),
        durable=cast(Literal["group", "none"], durable),
        sync_interval_s=0.001,
        piece_bytes=4096,
    )
    return Executor(LAYOUT, chunk_tokens=CHUNK_TOKENS, memory_bytes=1 << 20, disk=disk, pin=False)


def chunks_of(executor: Executor, path: int, round_number: int) -> ChunkArray:
    indexes = [path * PATH_CHUNKS + i for i in range(PATH_CHUNKS)]
    return path_of_chunks(executor, indexes, generation=round_number)


def tokens_of(path: int, round_number: int) -> NDArray[np.uint32]:
    """The first token is the path, the second the round."""
    tokens = np.arange(PATH_TOKENS, dtype=np.uint32)
    tokens[0], tokens[1] = path, round_number
    return tokens


def slots_of(path: int, round_number: int) -> NDArray[np.int64]:
    random = np.random.default_rng([path, round_number])
    return random.integers(0, NUM_SLOTS, PATH_TOKENS)


def make_engine() -> FakeEngine:
    return FakeEngine(LAYOUT, NUM_SLOTS, seed=11)


def say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


class Spiller:
    """Keeps a few spills in flight, each of another path."""

    def __init__(self, executor: Executor, first_round: int) -> None:
        self.executor = executor
        self.random = np.random.default_rng(first_round)
        self.round = first_round
        self.other_id = CLEAR_IDS
        self.path_of_round: dict[int, int] = {}

    def run(self) -> None:
        while True:
            path = int(self.random.integers(NUM_PATHS))
            if path not in self.path_of_round.values():
                self.begin(path)
            if len(self.path_of_round) >= MAX_IN_FLIGHT:
                self.executor.wait(TIMEOUT_S)
            for completion in self.executor.poll():
                assert completion.status == CompletionStatus.OK
                path = self.path_of_round.pop(completion.command_id, -1)
                if path >= 0:
                    say(f"done {path} {completion.command_id}")

    def begin(self, path: int) -> None:
        self.round += 1
        say(f"begin {path} {self.round}")
        chunks = chunks_of(self.executor, path, self.round)
        if self.random.random() < 0.3:  # else the spill itself clears what lies there
            self.submit_other(Clear, chunks)
        self.submit_other(Store, chunks, slots_of(path, self.round))
        while self.executor.stats().store.num_queued:  # a spill may only follow what is stored
            self.executor.wait(TIMEOUT_S)
        self.path_of_round[self.round] = path
        tokens = tokens_of(path, self.round)
        sequence = self.round * PATH_CHUNKS
        self.executor.submit(Spill(self.round, chunks, tokens, NAMESPACE, sequence))

    def submit_other(
        self, kind: type[Clear] | type[Store], chunks: ChunkArray, *arguments: NDArray[np.int64]
    ) -> None:
        self.other_id += 1
        self.executor.submit(kind(self.other_id, chunks, *arguments))


if __name__ == "__main__":
    folder, first_round, io_engine, durable = sys.argv[1:]
    tier = open_tier(folder, io_engine, durable)
    engine = make_engine()
    tier.attach(engine.memory())
    Spiller(tier, int(first_round)).run()
