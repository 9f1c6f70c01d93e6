"""A slow, obviously right model of the index: every chunk is a tuple of all tokens from the root.

It knows no nodes and no queues: each question is answered by looking at all chunks.
"""

from __future__ import annotations

from index_marks_model import Key, ModelMarks, Path
from index_model_values import (
    ABSENT,
    DISK,
    LRU,
    MEMORY,
    READY,
    TIERS,
    WRITING,
    ModelChunk,
    ModelMatch,
    ModelPolicy,
    common,
)


class IndexModel:
    def __init__(
        self,
        chunk_tokens: int,
        slack: int,
        capacity: tuple[int, int],
        policy: ModelPolicy = LRU,
        most_pinned: tuple[int, int] = (0, 0),
    ) -> None:
        self.chunk_tokens = chunk_tokens
        self.slack = slack
        self.capacity = capacity  # in extents, each of one unit
        self.policy = policy
        self.most_pinned = most_pinned  # chunks of pinned subtrees
        self.marks = ModelMarks()
        self.clock = 0  # of the last advance
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
        for space, prefix in self.marks.all:
            prefixes |= {(space, prefix[: end + 1]) for end in range(len(prefix))}
        return len(prefixes)

    def num_records(self) -> int:
        """Chunks, and the blank ones on the way to a mark."""
        blank = {
            (space, prefix[:end])
            for space, prefix in self.marks.all
            for end in range(self.chunk_tokens, len(prefix) + 1, self.chunk_tokens)
        }
        return len(blank | set(self.chunks))

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

    def pop_leaf(self, tier: int, root: Key | None = None) -> ModelChunk | None:
        """Takes the chunk that leaves the tier next out of it; of those that a quota counts."""
        leaves = self.leaves(tier)
        if root is not None:
            leaves = [one for one in leaves if self.quota_root(one, tier) == root]
        if root is not None or self.num_pinned(tier) <= self.most_pinned[tier]:
            leaves = [one for one in leaves if not self.marks.is_pinned(one.space, one.path)]
        first = min(leaves, key=self.order, default=None)
        if first is not None:
            self.evicted[tier] += 1
            self.vacate(first, tier)
        return first

    def leaves(self, tier: int) -> list[ModelChunk]:
        """What no pin of a handle and no use keeps from leaving."""
        kept = [chunk for chunk in self.chunks.values() if chunk.kept(tier)]
        parents = {id(self.parent(chunk)) for chunk in kept}
        return [
            chunk
            for chunk in kept
            if chunk.state[tier] == READY
            and id(chunk) not in parents
            and not chunk.uses[tier]
            and not self.is_pinned(chunk)
        ]

    def order(self, leaf: ModelChunk) -> tuple[float, ...]:
        """Least for the leaf that leaves first."""
        weight = self.policy.weight(leaf.start, leaf.num_uses)
        idle = min(self.now - leaf.time, 2**31 - 1) * round(2**32 / 2 ** (weight % 4 / 4))
        idle = 0 if self.policy.lightest_first else idle >> weight // 4
        priority = self.marks.priority(leaf.space, leaf.path)
        return (priority, -idle, weight, leaf.time, -leaf.start, leaf.id)

    # --- Subtrees ---

    def subtree(self, space: int, prefix: Path) -> list[ModelChunk]:
        return [
            chunk
            for chunk in self.chunks.values()
            if chunk.space == space and chunk.path[: len(prefix)] == prefix
        ]

    def quota_root(self, chunk: ModelChunk, tier: int) -> Key | None:
        return self.marks.quota_root(chunk.space, chunk.path, tier)

    def num_pinned(self, tier: int) -> int:
        return sum(
            chunk.kept(tier) and self.marks.is_pinned(chunk.space, chunk.path)
            for chunk in self.chunks.values()
        )

    def charged(self, root: Key, tier: int) -> int:
        return sum(
            chunk.kept(tier) and self.quota_root(chunk, tier) == root
            for chunk in self.chunks.values()
        )

    def may_pin(self, space: int, prefix: Path) -> bool:
        fresh = [
            chunk
            for chunk in self.subtree(space, prefix)
            if not self.marks.is_pinned(chunk.space, chunk.path)
        ]
        return all(
            self.num_pinned(tier) + sum(chunk.kept(tier) for chunk in fresh)
            <= self.most_pinned[tier]
            for tier in TIERS
        )

    def evict_within(self, root: Key, tier: int, num_wanted: int) -> None:
        quota = self.marks.all[root].quota[tier]
        assert quota is not None
        wanted = min(num_wanted, quota)
        while self.charged(root, tier) + wanted > quota:
            if self.pop_leaf(tier, root) is None:
                return

    def evict_for_quotas(self, space: int, paths: list[Path], tier: int, *, fresh: bool) -> None:
        """Make room for chunks (`fresh`), or come back within the quotas that count them."""
        roots = [self.marks.quota_root(space, path, tier) for path in paths]
        for root in [key for key in self.marks.all if key in roots]:
            self.evict_within(root, tier, roots.count(root) if fresh else 0)

    def within_quotas(self, space: int, paths: list[Path], tier: int) -> list[Path]:
        """As many of these chunks, from the first, as the quotas have room for."""
        taken: list[Key] = []
        for number, path in enumerate(paths):
            root = self.marks.quota_root(space, path, tier)
            if root is None:
                continue
            taken.append(root)
            quota = self.marks.all[root].quota[tier]
            if self.charged(root, tier) + taken.count(root) > (quota or 0):
                return paths[:number]
        return paths

    def plan_within_quotas(self, space: int, tokens: Path, tail: bool) -> list[Path]:
        """As plan_reserve, after those at their limit made room among their own."""
        wanted = self.plan_reserve(space, tokens, tail)
        if len(self.within_quotas(space, wanted, MEMORY)) < len(wanted):
            last = self.match(space, tokens, TIERS).last
            if last is not None:
                last.pins += 1
            self.evict_for_quotas(space, wanted, MEMORY, fresh=True)
            if last is not None:
                self.release(last)
            wanted = self.plan_reserve(space, tokens, tail)
        return self.within_quotas(space, wanted, MEMORY)

    def demote(self, space: int, prefix: Path) -> int:
        """What is ready on disk leaves memory; gives the number of chunks."""
        num_left = 0
        for chunk in sorted(self.subtree(space, prefix), key=lambda one: -one.start):
            if chunk in self.leaves(MEMORY) and chunk.visible(DISK):
                self.vacate(chunk, MEMORY)
                num_left += 1
        return num_left

    def advance(self, now: int) -> list[list[int]]:
        """Ids of the chunks that left each tier."""
        self.clock = max(self.clock, now)
        self.marks.end_pins(None, self.clock)
        left: list[list[int]] = [[], []]
        for tier in TIERS:
            while over := [leaf for leaf in self.leaves(tier) if self.is_over(leaf)]:
                left[tier].append(over[0].id)
                self.vacate(over[0], tier)
        return left

    def is_over(self, chunk: ModelChunk) -> bool:
        time_to_live = self.marks.time_to_live(chunk.space, chunk.path)
        if time_to_live is None or self.marks.is_pinned(chunk.space, chunk.path):
            return False
        return chunk.time + time_to_live <= self.clock

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
            and self.may_be_on_disk(chunk)
        )

    def may_be_on_disk(self, chunk: ModelChunk) -> bool:
        root = self.quota_root(chunk, DISK)
        return root is None or self.marks.all[root].quota[DISK] != 0

    def waits_for_spill(self) -> list[ModelChunk]:
        """Chunks that a spill with room would have to take."""
        return [
            chunk
            for chunk in self.chunks.values()
            if chunk.spill_due
            and self.can_spill(chunk)
            and all(above.kept(DISK) or self.can_spill(above) for above in self.chain(chunk))
        ]
