"""Random things said about subtrees, on the index and on its model."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from index_machine import CHUNK_TOKENS, DIGESTS, ComparedIndex, as_array
from index_marks_model import ModelMark, Path
from index_model_values import DISK, MEMORY, TIERS

from radixkv import PinLimitError

OWNERS = ("router", "operator")
TIER_NAMES = ("memory", "disk")

# What a rule does follows from one number. Mixed, since the small ones that hypothesis likes would
# all choose alike.
numbers = st.integers(0, 2**24 - 1).map(lambda number: number * 0x9E3779B1 % 2**32)


class MarkRules(ComparedIndex):
    def prefix(self, number: int) -> tuple[int, Path]:
        """A namespace and a prefix: one that is marked, or of what is kept, or neither."""
        number, which = divmod(number, 4)
        marked = list(self.model.marks.all)
        if marked and which == 0:
            return marked[number % len(marked)]
        space, tokens = self.prompt(number)
        return space, tokens[: number // 64 % (2 * CHUNK_TOKENS)] if which > 1 else tokens

    @rule(number=numbers, value=st.one_of(st.none(), st.integers(0, 20)))
    def say(self, number: int, value: int | None) -> None:
        """One of four things about a prefix; None takes it back."""
        space, prefix = self.prefix(number // 6)
        sayings = [
            self.set_priority,
            self.set_time_to_live,
            self.set_memory_quota,
            self.set_memory_quota,
            self.set_disk_quota,
            self.pin,
        ]
        sayings[number % 6](space, prefix, value)
        self.model.marks.forget_silent()

    def set_priority(self, space: int, prefix: Path, value: int | None) -> None:
        priority = None if value is None else value % 5 - 2
        self.index.set_priority(as_array(prefix), priority, self.spaces[space])
        self.model.marks.change((space, prefix)).priority = priority

    def set_time_to_live(self, space: int, prefix: Path, value: int | None) -> None:
        self.index.set_time_to_live(as_array(prefix), value, self.spaces[space])
        self.model.marks.change((space, prefix)).time_to_live = value

    def set_memory_quota(self, space: int, prefix: Path, value: int | None) -> None:
        self.set_quota(space, prefix, MEMORY, value)

    def set_disk_quota(self, space: int, prefix: Path, value: int | None) -> None:
        self.set_quota(space, prefix, DISK, value)

    def set_quota(self, space: int, prefix: Path, tier: int, value: int | None) -> None:
        # Rounded down to whole units.
        num_bytes = None if value is None else value * CHUNK_TOKENS + value % CHUNK_TOKENS
        self.index.set_quota(as_array(prefix), TIER_NAMES[tier], num_bytes, self.spaces[space])
        self.model.marks.change((space, prefix)).quota[tier] = value
        if value is not None:
            self.model.evict_within((space, prefix), tier, 0)

    def pin(self, space: int, prefix: Path, value: int | None) -> None:
        until = None if value is None else self.model.clock + value
        owner = OWNERS[len(prefix) % 2]
        if not self.model.may_pin(space, prefix):
            with pytest.raises(PinLimitError, match="pin: expected at most"):
                self.index.pin(as_array(prefix), owner, self.spaces[space], until=until)
            return
        self.index.pin(as_array(prefix), owner, self.spaces[space], until=until)
        self.model.marks.change((space, prefix)).pins[owner] = until

    @precondition(lambda self: self.model.marks.all)
    @rule(number=numbers, owner=st.sampled_from(OWNERS))
    def unpin(self, number: int, owner: str) -> None:
        if number % 4 == 0:
            assert self.index.unpin_all(owner) == self.model.marks.end_pins(owner, 0)
            return
        space, prefix = self.prefix(number // 4)
        mark = self.model.marks.all.get((space, prefix), ModelMark())
        was_pinned = owner in mark.pins
        mark.pins.pop(owner, None)
        self.model.marks.forget_silent()
        assert self.index.unpin(as_array(prefix), owner, self.spaces[space]) == was_pinned

    @precondition(lambda self: self.model.marks.all)
    @rule(later=st.integers(-1, 4))
    def advance(self, later: int) -> None:
        now = max(0, self.time + later)
        left = self.index.advance(now)
        expected = self.model.advance(now)
        for tier in TIERS:
            assert sorted(left[tier]["id"].tolist()) == sorted(expected[tier])

    @precondition(lambda self: any(one.visible(DISK) for one in self.model.chunks.values()))
    @rule(number=numbers)
    def demote(self, number: int) -> None:
        space, prefix = self.prefix(number)
        left = self.index.demote(as_array(prefix), self.spaces[space])
        assert left == self.model.demote(space, prefix)

    @precondition(lambda self: len(self.model.marks.all) > 4)
    @rule()
    def take_all_marks_back(self) -> None:
        """Marks make each other rare otherwise."""
        for space, prefix in list(self.model.marks.all):
            tokens, number = as_array(prefix), self.spaces[space]
            self.index.set_priority(tokens, None, number)
            self.index.set_time_to_live(tokens, None, number)
            for tier in TIER_NAMES:
                self.index.set_quota(tokens, tier, None, number)
            for owner in OWNERS:
                self.index.unpin(tokens, owner, number)
        self.model.marks.all.clear()

    @invariant()
    def marks_say_what_the_model_says(self) -> None:
        marks = self.index.marks()
        assert self.index.stats().marks == len(marks) == len(self.model.marks.all)
        for mark, (key, expected) in zip(marks, self.model.marks.all.items(), strict=True):
            space, prefix = key
            assert (mark.digest, tuple(mark.tokens.tolist())) == (DIGESTS[space], prefix)
            assert mark.priority == expected.priority
            assert mark.time_to_live == expected.time_to_live
            assert mark.pins == expected.pins
            quotas = [mark.memory_quota_bytes, mark.disk_quota_bytes]
            charged = [mark.memory_charged_bytes, mark.disk_charged_bytes]
            for tier, quota in enumerate(expected.quota):
                if quota is None:
                    assert (quotas[tier], charged[tier]) == (None, 0)
                    continue
                assert quotas[tier] == quota * CHUNK_TOKENS
                assert charged[tier] == self.model.charged(key, tier) * CHUNK_TOKENS

    @invariant()
    def subtrees_are_as_large_as_the_model_says(self) -> None:
        probes = {(chunk.space, chunk.path) for chunk in self.model.chunks.values()}
        for space, path in [*sorted(probes)[::4], (0, ())]:
            prefix = path[: max(0, len(path) - 3)]
            stats = self.index.subtree_stats(as_array(prefix), self.spaces[space])
            found = [
                chunk
                for chunk in self.model.subtree(space, prefix)
                if any(chunk.kept(tier) for tier in TIERS) and not chunk.dropped
            ]
            assert stats.chunks == len(found)
            assert stats.tokens == sum(chunk.num_tokens for chunk in found)
            assert stats.hits == sum(chunk.num_uses for chunk in found)
            assert stats.last_use == max((chunk.time for chunk in found), default=0)
            assert stats.memory_chunks == sum(chunk.visible(MEMORY) for chunk in found)
            assert stats.disk_chunks == sum(chunk.visible(DISK) for chunk in found)
            assert stats.memory_bytes == sum(c.kept(MEMORY) for c in found) * CHUNK_TOKENS
            assert stats.disk_bytes == sum(c.kept(DISK) for c in found) * CHUNK_TOKENS
