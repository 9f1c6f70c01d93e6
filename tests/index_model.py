"""A slow, obviously right model of the index: every chunk is a tuple of all tokens from the root.

It knows no nodes and no queues: each question is answered by looking at all chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

MEMORY, DISK = TIERS = (0, 1)
ABSENT, WRITING, READY = range(3)

Path = tuple[int, ...]


@dataclass(eq=False)
class ModelChunk:
    """`path` has the tokens of the whole prompt up to the chunk's end."""

    space: int
    path: Path
    start: int
    id: int
    generation: int
    state: list[int] = field(default_factory=lambda: [ABSENT, ABSENT])
    uses: list[int] = field(default_factory=lambda: [0, 0])
    offset: list[int | None] = field(default_factory=lambda: [None, None])
    time: int = 0
    num_uses: int = 0
    pins: int = 0
    dropped: bool = False
    no_spill: bool = False
    spill_due: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.path) - self.start

    def kept(self, tier: int) -> bool:
        return self.state[tier] != ABSENT

    def visible(self, tier: int) -> bool:
        return self.state[tier] == READY and not self.dropped


@dataclass(frozen=True)
class ModelPolicy:
    """An order over leaves; `weight` takes a leaf's position and the admissions that found it."""

    name: str
    weight: Callable[[int, int], int]
    lightest_first: bool = False
    is_renewed_by_uses: bool = True


def steps(value: int) -> int:
    return math.floor(4 * math.log2(value) + 1e-9)


LRU = ModelPolicy("lru", lambda position, num_uses: 0)
MODEL_POLICIES = [
    LRU,
    ModelPolicy("fifo", lambda position, num_uses: 0, is_renewed_by_uses=False),
    ModelPolicy("lfu", lambda position, num_uses: min(num_uses, 63), lightest_first=True),
    ModelPolicy("slru", lambda position, num_uses: 8 if num_uses else 0),
    ModelPolicy("cost", lambda position, num_uses: steps(8 + position // 4096) - 12),
    ModelPolicy("reuse", lambda position, num_uses: steps(num_uses + 1)),
]


@dataclass(frozen=True)
class ModelMatch:
    num_tokens: int
    last: ModelChunk | None


def common(a: Path, b: Path) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


class IndexModel:
    def __init__(
        self,
        chunk_tokens: int,
        slack: int,
        capacity: tuple[int, int],
        policy: ModelPolicy = LRU,
    ) -> None:
        self.chunk_tokens = chunk_tokens
        self.slack = slack
        self.capacity = capacity  # in extents, each of one unit
        self.policy = policy
        self.now = 0  # the last admission
        self.chunks: dict[tuple[int, Path], ModelChunk] = {}
        self.limbo: list[dict[int, int]] = [{}, {}]  # offset → uses
        self.evicted = [0, 0]
        self.failed = [0, 0]
        self.num_dropped = 0

    # --- Looking ---

    def parent(self, chunk: ModelChunk) -> ModelChunk | None:
        return self.chunks.get((chunk.space, chunk.path[: chunk.start]))

    def chain(self, chunk: ModelChunk | None) -> list[ModelChunk]:
        """The chunk and all above it, from the root."""
        found: list[ModelChunk] = []
        while chunk is not None:
            found.insert(0, chunk)
            chunk = self.parent(chunk)
        return found

    def is_full(self, chunk: ModelChunk) -> bool:
        return chunk.num_tokens == self.chunk_tokens

    def is_below(self, chunk: ModelChunk, above: ModelChunk) -> bool:
        return chunk is not above and above in self.chain(chunk)

    def below(self, above: ModelChunk) -> list[ModelChunk]:
        return [chunk for chunk in self.chunks.values() if self.is_below(chunk, above)]

    def is_pinned(self, chunk: ModelChunk) -> bool:
        return chunk.pins > 0 or any(other.pins for other in self.below(chunk))

    def siblings(self, chunk: ModelChunk) -> list[ModelChunk]:
        """Other chunks of the same parent."""
        return [
            other
            for other in self.chunks.values()
            if other is not chunk
            and other.space == chunk.space
            and other.start == chunk.start
            and other.path[: other.start] == chunk.path[: chunk.start]
        ]

    def match(self, space: int, tokens: Path, tiers: tuple[int, ...]) -> ModelMatch:
        base, last = 0, None
        while base + self.chunk_tokens <= len(tokens):
            full = self.chunks.get((space, tokens[: base + self.chunk_tokens]))
            if full is None or not any(full.visible(tier) for tier in tiers):
                break
            base, last = base + self.chunk_tokens, full
        candidates = [
            (common(chunk.path, tokens), -tier, chunk.time, chunk.id, chunk)
            for chunk in self.chunks.values()
            for tier in tiers
            if chunk.space == space and chunk.start == base and chunk.visible(tier)
        ]
        best = max(candidates, key=lambda one: one[:4], default=None)
        if best is not None and best[0] > base:
            return ModelMatch(best[0], best[4])
        return ModelMatch(base, last)

    def num_memory_tokens(self, last: ModelChunk | None, num_tokens: int) -> int:
        for chunk in self.chain(last):
            if chunk.state[MEMORY] != READY:
                return chunk.start
        return num_tokens

    def used(self, tier: int) -> int:
        kept = sum(chunk.kept(tier) for chunk in self.chunks.values())
        return kept + len(self.limbo[tier])

    def free(self, tier: int) -> int:
        return self.capacity[tier] - self.used(tier)

    def num_tree_tokens(self) -> int:
        prefixes = {
            (chunk.space, chunk.path[: end + 1])
            for chunk in self.chunks.values()
            for end in range(len(chunk.path))
        }
        return len(prefixes)

    # --- States ---

    def touch(self, chunk: ModelChunk | None, time: int) -> None:
        if chunk is not None:
            chunk.time = max(chunk.time, time)
            self.now = max(self.now, time)

    def found(self, chunk: ModelChunk | None, time: int) -> None:
        """An admission found the chunk."""
        self.count_use(chunk, time)
        if chunk is not None and self.policy.is_renewed_by_uses:
            self.touch(chunk, time)

    def note_store(self, stored: list[ModelChunk], kept: ModelChunk | None, time: int) -> None:
        """An admission stored these chunks, or found that `kept` has all of them."""
        if not stored:
            self.found(kept, time)
            return
        self.count_use(self.parent(stored[0]), time)
        self.touch(stored[-1], time)

    def count_use(self, chunk: ModelChunk | None, time: int) -> None:
        if chunk is not None and time > chunk.time:
            chunk.num_uses += 1

    def begin_writing(self, chunk: ModelChunk, tier: int, offset: int) -> None:
        assert chunk.state[tier] == ABSENT
        chunk.state[tier] = WRITING
        chunk.offset[tier] = offset
        chunk.uses[tier] = 1

    def vacate(self, chunk: ModelChunk, tier: int) -> None:
        offset = chunk.offset[tier]
        assert offset is not None
        if chunk.uses[tier]:
            self.limbo[tier][offset] = chunk.uses[tier]
        chunk.state[tier] = ABSENT
        chunk.uses[tier] = 0
        chunk.offset[tier] = None
        parent = self.parent(chunk)
        self.touch(parent, chunk.time)
        if parent is not None:
            parent.num_uses = max(parent.num_uses, chunk.num_uses)
        self.forget_unless_needed(chunk)

    def forget_unless_needed(self, chunk: ModelChunk) -> None:
        if not any(chunk.kept(tier) for tier in TIERS) and not self.is_pinned(chunk):
            self.chunks.pop((chunk.space, chunk.path), None)

    def vacate_with_all_below(self, chunk: ModelChunk, tier: int) -> None:
        below = sorted(self.below(chunk), key=lambda one: -one.start)
        for one in [*below, chunk]:
            if one.kept(tier):
                self.vacate(one, tier)

    def set_ready(self, chunk: ModelChunk, tier: int) -> None:
        chunk.state[tier] = READY
        if tier == MEMORY and not chunk.kept(DISK):
            chunk.spill_due = True
        if tier == DISK:
            chunk.spill_due = False
        self.supersede(chunk, tier)

    def end_use(self, chunk: ModelChunk, tier: int, offset: int) -> bool:
        """Whether the chunk still has the extent; an extent in limbo may be freed."""
        limbo = self.limbo[tier]
        if offset in limbo:
            limbo[offset] -= 1
            if limbo[offset] == 0:
                del limbo[offset]
            return False
        assert chunk.offset[tier] == offset
        chunk.uses[tier] -= 1
        return True

    def end_reading(self, chunk: ModelChunk, tier: int, offset: int) -> None:
        if self.end_use(chunk, tier, offset):
            self.leave_if_covered(chunk, tier)

    # --- Tails ---

    def cover(self, tail: ModelChunk, tier: int) -> int:
        others = (other for other in self.siblings(tail) if other.visible(tier))
        return max((common(tail.path, other.path) - tail.start for other in others), default=0)

    def least_cover(self, tail: ModelChunk) -> int:
        return max(1, tail.num_tokens - self.slack)

    def leave_if_covered(self, chunk: ModelChunk, tier: int) -> None:
        if self.is_full(chunk) or chunk.state[tier] != READY or chunk.uses[tier]:
            return
        if not self.is_pinned(chunk) and self.cover(chunk, tier) >= self.least_cover(chunk):
            self.vacate(chunk, tier)

    def supersede(self, chunk: ModelChunk, tier: int) -> None:
        if not chunk.visible(tier):
            return
        if not self.is_full(chunk) and self.cover(chunk, tier) == chunk.num_tokens:
            self.leave_if_covered(chunk, tier)
            return
        for other in self.siblings(chunk):
            shared = common(chunk.path, other.path) - chunk.start
            if not self.is_full(other) and shared >= self.least_cover(other):
                self.leave_if_covered(other, tier)
        self.leave_if_covered(chunk, tier)

    # --- Calls ---

    def plan_reserve(self, space: int, tokens: Path, tail: bool) -> list[Path]:
        """Paths of the chunks that a reservation with enough room takes."""
        num_full = len(tokens) // self.chunk_tokens
        wanted: list[Path] = []
        for span in range(num_full):
            path = tokens[: (span + 1) * self.chunk_tokens]
            chunk = self.chunks.get((space, path))
            if chunk is not None and chunk.dropped:
                return wanted
            if chunk is None or not chunk.kept(MEMORY):
                wanted.append(path)
        num_tail = len(tokens) % self.chunk_tokens
        existing = self.chunks.get((space, tokens))
        if not tail or num_tail == 0:
            return wanted
        if existing is not None and (existing.kept(MEMORY) or existing.dropped):
            return wanted
        has = self.match(space, tokens, (MEMORY,)).num_tokens
        if not wanted and has >= len(tokens) - min(self.slack, num_tail - 1):
            return wanted
        return [*wanted, tokens]

    def fail_writing(self, chunks: list[tuple[ModelChunk, int]], tier: int) -> None:
        for chunk, offset in reversed(chunks):
            self.failed[tier] += 1
            if self.end_use(chunk, tier, offset):
                self.vacate_with_all_below(chunk, tier)

    def pop_leaf(self, tier: int) -> ModelChunk | None:
        """Takes the chunk that leaves the tier next out of it."""
        kept = [chunk for chunk in self.chunks.values() if chunk.kept(tier)]
        parents = {id(self.parent(chunk)) for chunk in kept}
        leaves = [
            chunk
            for chunk in kept
            if chunk.state[tier] == READY
            and id(chunk) not in parents
            and not chunk.uses[tier]
            and not self.is_pinned(chunk)
        ]
        first = min(leaves, key=self.order, default=None)
        if first is not None:
            self.evicted[tier] += 1
            self.vacate(first, tier)
        return first

    def order(self, leaf: ModelChunk) -> tuple[float, ...]:
        """Least for the leaf that leaves first."""
        weight = self.policy.weight(leaf.start, leaf.num_uses)
        idle = min(self.now - leaf.time, 2**31 - 1) * round(2**32 / 2 ** (weight % 4 / 4))
        idle = 0 if self.policy.lightest_first else idle >> weight // 4
        return (-idle, weight, leaf.time, -leaf.start, leaf.id)

    def drop(self, space: int, prefix: Path) -> list[ModelChunk]:
        found = [
            chunk
            for chunk in self.chunks.values()
            if chunk.space == space and chunk.path[: len(prefix)] == prefix and not chunk.dropped
        ]
        self.num_dropped += len(found)
        for chunk in sorted(found, key=lambda one: -one.start):
            if self.is_pinned(chunk):
                chunk.dropped = True
                continue
            self.vacate_everywhere(chunk)
        return found

    def vacate_everywhere(self, chunk: ModelChunk) -> None:
        for tier in TIERS:
            if chunk.kept(tier):
                self.vacate(chunk, tier)

    def clear_memory(self) -> int:
        cleared = [c for c in self.chunks.values() if c.kept(MEMORY) and not self.is_pinned(c)]
        for chunk in sorted(cleared, key=lambda one: -one.start):
            self.vacate(chunk, MEMORY)
        return len(cleared)

    def release(self, last: ModelChunk) -> None:
        last.pins -= 1
        for chunk in reversed(self.chain(last)):
            if self.is_pinned(chunk):
                return
            if chunk.dropped:
                self.vacate_everywhere(chunk)
            for tier in TIERS:
                self.leave_if_covered(chunk, tier)
            self.forget_unless_needed(chunk)

    def can_spill(self, chunk: ModelChunk) -> bool:
        return (
            chunk.state[MEMORY] == READY
            and not chunk.kept(DISK)
            and not chunk.dropped
            and not chunk.no_spill
        )

    def waits_for_spill(self) -> list[ModelChunk]:
        """Chunks that a spill with room would have to take."""
        return [
            chunk
            for chunk in self.chunks.values()
            if chunk.spill_due
            and self.can_spill(chunk)
            and all(above.kept(DISK) or self.can_spill(above) for above in self.chain(chunk))
        ]
