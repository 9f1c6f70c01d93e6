"""The native index beside its model: choosing what to do, and comparing what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis.stateful import RuleBasedStateMachine
from index_marks_model import Path
from index_model import IndexModel
from index_model_values import DISK, LRU, MEMORY, TIERS, ModelChunk

from radixkv import RadixIndex
from radixkv._native import PrefixHandle
from radixkv.commands import NO_EXTENT, ChunkArray

CHUNK_TOKENS = 4
SLACK = 1
CAPACITY = (24, 18)  # chunks in memory, chunks on disk
UNITS = (CAPACITY[MEMORY], 4 * CAPACITY[DISK])  # a disk has headers for a quarter of its units
DIGESTS = (bytes(16), b"another model...")
OFFSET = ("memory_offset", "disk_offset")


@dataclass(eq=False)
class Command:
    """A piece of data movement that is under way."""

    kind: str
    refs: ChunkArray
    chunks: list[ModelChunk]


@dataclass(eq=False)
class Held:
    handle: PrefixHandle
    num_tokens: int
    last: ModelChunk


def as_array(tokens: Path) -> np.ndarray:
    return np.array(tokens, (np.int32, np.int64, np.uint32)[len(tokens) % 3])


class ComparedIndex(RuleBasedStateMachine):
    """The index, its model, and what is held and under way. The rules are the test's."""

    policy = LRU

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        # One unit a chunk, whatever its length, so that the model need not know the allocator.
        self.index = RadixIndex(
            chunk_tokens=CHUNK_TOKENS,
            token_bytes=1,
            unit_bytes=CHUNK_TOKENS,
            memory_bytes=UNITS[MEMORY] * CHUNK_TOKENS,
            disk_bytes=UNITS[DISK] * CHUNK_TOKENS,
            tail_slack=SLACK,
            policy=self.policy.name,
            max_pinned=0.5,
        )
        self.spaces = [self.index.namespace(digest) for digest in DIGESTS]
        self.model = IndexModel(
            CHUNK_TOKENS, SLACK, CAPACITY, self.policy, (UNITS[MEMORY] // 2, UNITS[DISK] // 2)
        )
        self.handles: list[Held] = []
        self.commands: list[Command] = []
        self.generations: dict[int, int] = {}
        self.time = 0
        self.num_admissions = 0

    # --- Choosing ---

    def prompt(self, number: int) -> tuple[int, Path]:
        """A namespace and tokens: mostly a kept path, cut somewhere, that goes on differently."""
        number, cut = divmod(number, 16)
        number, more = divmod(number, 13)
        known = list(self.model.chunks.values())
        number, which = divmod(number, len(known) + 2)
        space = number % 5 // 4
        start: Path = ()
        if which < len(known):
            space, start = known[which].space, known[which].path
        start = start[: max(0, len(start) - max(0, cut - 8))]
        return space, start + tuple((number >> i) % 2 for i in range(more))

    def now(self) -> int:
        """An admission's number; some are as old as the one before, so that ties are broken."""
        self.num_admissions += 1
        self.time += self.num_admissions % 3 > 0
        return self.time

    def is_running(self, kind: str) -> bool:
        return any(command.kind == kind for command in self.commands)

    def pick(self, number: int, kind: str) -> Command:
        found = [command for command in self.commands if command.kind == kind]
        command = found[number % len(found)]
        self.commands.remove(command)
        return command

    def num_ok(self, number: int, command: Command) -> int:
        """Mostly all; else some at the end failed."""
        failed = number // 64 % 4 if number // 256 % 4 == 0 else 0
        return max(0, len(command.chunks) - failed)

    def is_rich(self) -> bool:
        """Enough is kept for something to leave."""
        return len(self.model.chunks) > 9

    # --- Comparing ---

    def learn(self, refs: ChunkArray, space: int, paths: list[Path]) -> list[ModelChunk]:
        """The model's chunks behind refs, made where the index has just made them."""
        chunks = []
        for ref, path in zip(refs, paths, strict=True):
            chunk = self.model.chunks.get((space, path))
            start = (len(path) - 1) // CHUNK_TOKENS * CHUNK_TOKENS
            if chunk is None:
                number, generation = int(ref["id"]), int(ref["generation"])
                assert generation > self.generations.get(number, -1)
                assert number not in {other.id for other in self.model.chunks.values()}
                self.generations[number] = generation
                chunk = ModelChunk(space, path, start, number, generation)
                self.model.chunks[space, path] = chunk
            assert (ref["id"], ref["generation"]) == (chunk.id, chunk.generation)
            assert (ref["span"], ref["num_tokens"]) == (start // CHUNK_TOKENS, len(path) - start)
            chunks.append(chunk)
        return chunks

    def compare_refs(self, refs: ChunkArray, chunks: list[ModelChunk]) -> None:
        assert refs["id"].tolist() == [chunk.id for chunk in chunks]
        for ref, chunk in zip(refs, chunks, strict=True):
            for tier in TIERS:
                offset = chunk.offset[tier]
                assert int(ref[OFFSET[tier]]) == (NO_EXTENT if offset is None else offset)

    def begin_command(self, kind: str, refs: ChunkArray, chunks: list[ModelChunk]) -> None:
        if len(refs):
            self.commands.append(Command(kind, refs, chunks))
