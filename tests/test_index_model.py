"""Random operations on the index, each compared with the slow model of `index_model`."""

from __future__ import annotations

from pathlib import Path as FilePath

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from index_machine import CHUNK_TOKENS, DIGESTS, Command, Held, as_array
from index_marks_machine import numbers
from index_marks_model import Path
from index_model_values import (
    ABSENT,
    DISK,
    MEMORY,
    MODEL_POLICIES,
    READY,
    TIERS,
    ModelChunk,
    ModelPolicy,
)
from index_saving_machine import SavingRules

steps_done = 0


class IndexMachine(SavingRules):
    @initialize(seeds=st.lists(numbers, max_size=12))
    def fill(self, seeds: list[int]) -> None:
        for number in seeds:
            self.store(number)

    # --- Matching and holding ---

    @rule(number=numbers)
    def acquire(self, number: int) -> None:
        self.hold(*self.prompt(number), self.now() if number % 2 else None)

    def hold(self, space: int, tokens: Path, time: int | None) -> None:
        expected = self.model.match(space, tokens, TIERS)
        handle = self.index.acquire(as_array(tokens), self.spaces[space], time=time)
        assert handle.num_tokens == expected.num_tokens
        if expected.last is None:
            handle.close()
            return
        expected.last.pins += 1
        if time is not None:
            self.model.found(expected.last, time)
        self.handles.append(Held(handle, expected.num_tokens, expected.last))

    @precondition(lambda self: self.handles)
    @rule(number=numbers)
    def close(self, number: int) -> None:
        held = self.handles.pop(number % len(self.handles))
        held.handle.close()
        self.model.release(held.last)

    @precondition(lambda self: self.handles)
    @rule(number=numbers)
    def touch(self, number: int) -> None:
        held = self.handles[number % len(self.handles)]
        time = self.now()
        self.index.touch(held.handle, time)
        self.model.found(held.last, time)

    @precondition(lambda self: self.handles)
    @rule(number=numbers, first=st.integers(0, 8), count=st.integers(0, 8))
    def use(self, number: int, first: int, count: int) -> None:
        held = self.handles[number % len(self.handles)]
        end = first + count
        chain = self.model.chain(held.last)
        chunks = [one for one in chain if one.start < end and len(one.path) > first and count]
        if end > held.num_tokens or any(one.state[MEMORY] != READY for one in chunks):
            with pytest.raises(ValueError, match="num_tokens: expected"):
                self.index.use(held.handle, first, count)
            return
        refs = self.index.use(held.handle, first, count)
        self.compare_refs(refs, chunks)
        assert sum(refs["count"].tolist()) == count
        for chunk in chunks:
            chunk.uses[MEMORY] += 1
        self.begin_command("load", refs, chunks)

    @precondition(lambda self: self.is_running("load"))
    @rule(number=numbers)
    def end_load(self, number: int) -> None:
        command = self.pick(number, "load")
        self.index.release_uses(command.refs)
        for ref, chunk in zip(command.refs, command.chunks, strict=True):
            self.model.end_reading(chunk, MEMORY, int(ref["memory_offset"]))

    # --- Keeping ---

    @rule(number=numbers, tail=st.booleans())
    def reserve(self, number: int, tail: bool) -> None:
        space, tokens = self.prompt(number)
        time = self.now()
        wanted = self.model.plan_within_quotas(space, tokens, tail)
        room = self.model.free(MEMORY)
        before = self.model.match(space, tokens, TIERS)
        refs, missing = self.index.reserve(
            as_array(tokens), self.spaces[space], time=time, tail=tail
        )
        assert len(refs) == min(len(wanted), room)
        assert missing == len(wanted) - len(refs)
        chunks = self.learn(refs, space, wanted[: len(refs)])
        for ref, chunk in zip(refs, chunks, strict=True):
            self.model.begin_writing(chunk, MEMORY, int(ref["memory_offset"]))
        self.compare_refs(refs, chunks)
        self.model.note_store(chunks, before.last, time)
        self.begin_command("store", refs, chunks)

    @precondition(lambda self: self.is_running("store"))
    @rule(number=numbers)
    def end_store(self, number: int) -> None:
        command = self.pick(number, "store")
        num_ok = self.num_ok(number, command)
        self.index.complete_store(command.refs, num_ok)
        pairs = [
            (chunk, int(ref["memory_offset"]))
            for ref, chunk in zip(command.refs, command.chunks, strict=True)
        ]
        for chunk, offset in pairs[:num_ok]:
            if self.model.end_use(chunk, MEMORY, offset):
                self.model.set_ready(chunk, MEMORY)
        self.model.fail_writing(pairs[num_ok:], MEMORY)

    @rule(number=numbers)
    def store(self, number: int) -> None:
        self.reserve(number, tail=True)
        if self.is_running("store"):
            self.end_store(number)

    @rule(number=numbers)
    def insert(self, number: int) -> None:
        space, tokens = self.prompt(number)
        tokens = tokens[: len(tokens) // CHUNK_TOKENS * CHUNK_TOKENS]
        if self.model.marks.quota_root(space, tokens, MEMORY):
            return
        wanted = self.model.plan_reserve(space, tokens, True)
        has = self.model.match(space, tokens, (MEMORY,)).num_tokens // CHUNK_TOKENS
        if len(wanted) > self.model.free(MEMORY) or len(wanted) + has < len(tokens) // CHUNK_TOKENS:
            return  # it would evict, or not be matched because of what is still being written
        time = self.now()
        before = self.model.match(space, tokens, TIERS)
        assert self.index.insert(as_array(tokens), self.spaces[space], time=time) == len(wanted)
        if not wanted:
            self.model.note_store([], before.last, time)
            return
        with self.index.acquire(as_array(wanted[-1]), self.spaces[space]) as handle:
            refs = handle.slices()[-len(wanted) :]
        refs["count"] = refs["num_tokens"]
        chunks = self.learn(refs, space, wanted)
        for ref, chunk in zip(refs, chunks, strict=True):
            self.model.begin_writing(chunk, MEMORY, int(ref["memory_offset"]))
        self.model.note_store(chunks, None, time)
        for chunk in chunks:
            self.model.end_use(chunk, MEMORY, chunk.offset[MEMORY] or 0)
            self.model.set_ready(chunk, MEMORY)

    # --- Leaving ---

    @precondition(lambda self: self.is_rich())
    @rule(tier=st.sampled_from(TIERS), count=st.integers(1, 4))
    def evict(self, tier: int, count: int) -> None:
        evicted = self.index.evict_units(("memory", "disk")[tier], count)
        expected = [leaf for _ in range(count) if (leaf := self.model.pop_leaf(tier)) is not None]
        assert evicted["id"].tolist() == [leaf.id for leaf in expected]

    @precondition(lambda self: self.is_rich())
    @rule(number=numbers)
    def drop(self, number: int) -> None:
        space, prefix = self.prompt(number)
        if len(prefix) < CHUNK_TOKENS:
            return
        dropped = self.index.drop(as_array(prefix), self.spaces[space])
        expected = self.model.drop(space, prefix)
        assert sorted(dropped["id"].tolist()) == sorted(chunk.id for chunk in expected)

    @precondition(lambda self: self.is_rich())
    @rule(number=numbers)
    def clear(self, number: int) -> None:
        if number % 8 == 0:
            dropped = self.index.clear_all()
            assert len(dropped) == sum(len(self.model.drop(s, ())) for s in range(len(DIGESTS)))
        elif number % 8 == 1:
            assert self.index.clear_memory() == self.model.clear_memory()

    # --- Disk ---

    @rule(most=st.integers(1, 5))
    def reserve_spill(self, most: int) -> None:
        free = self.model.free(DISK)
        waits = self.model.waits_for_spill()
        refs, tokens, digest, missing = self.index.reserve_spill(most)
        by_id = {chunk.id: chunk for chunk in self.model.chunks.values()}
        chunks = [by_id[int(ref["id"])] for ref in refs]
        assert len(chunks) == min(most, free) or missing == 0
        assert bool(chunks) or missing > 0 or not waits
        for before, chunk in zip([None, *chunks], chunks, strict=False):
            parent = self.model.parent(chunk)
            assert self.model.can_spill(chunk)
            assert parent is before if before else parent is None or parent.kept(DISK)
        expected = [token for chunk in chunks for token in chunk.path[chunk.start :]]
        assert tokens.tolist() == expected
        for ref, chunk in zip(refs, chunks, strict=True):
            assert digest == DIGESTS[chunk.space]
            self.model.begin_writing(chunk, DISK, int(ref["disk_offset"]))
            chunk.uses[MEMORY] += 1
            chunk.spill_due = False
        for space in {chunk.space for chunk in chunks}:
            paths = [chunk.path for chunk in chunks]
            self.model.evict_for_quotas(space, paths, DISK, fresh=False)
        self.compare_refs(refs, chunks)
        self.begin_command("spill", refs, chunks)

    @precondition(lambda self: self.is_running("spill"))
    @rule(number=numbers, retry=st.booleans())
    def end_spill(self, number: int, retry: bool) -> None:
        command = self.pick(number, "spill")
        num_ok = self.num_ok(number, command)
        self.index.complete_spill(command.refs, num_ok, retry=retry)
        for ref, chunk in list(zip(command.refs, command.chunks, strict=True))[:num_ok]:
            if self.model.end_use(chunk, DISK, int(ref["disk_offset"])):
                self.model.set_ready(chunk, DISK)
        failed = list(zip(command.chunks, command.refs["disk_offset"].tolist(), strict=True))
        self.model.fail_writing(failed[num_ok:], DISK)
        for i, (ref, chunk) in enumerate(zip(command.refs, command.chunks, strict=True)):
            self.model.end_reading(chunk, MEMORY, int(ref["memory_offset"]))
            if self.model.can_spill(chunk):
                is_covered = not self.model.is_full(chunk) and (
                    self.model.cover(chunk, DISK) >= self.model.least_cover(chunk)
                )
                chunk.no_spill = is_covered if i < num_ok else not retry
                chunk.spill_due = True

    @precondition(lambda self: self.on_disk_only())
    @rule(number=numbers, most=st.one_of(st.none(), st.integers(1, 3)))
    def hold_and_fetch(self, number: int, most: int | None) -> None:
        chunks = self.on_disk_only()
        chunk = chunks[number % len(chunks)]
        self.hold(chunk.space, chunk.path, None)
        self.reserve_fetch(-1, most)

    def on_disk_only(self) -> list[ModelChunk]:
        chunks = self.model.chunks.values()
        return [one for one in chunks if one.visible(DISK) and not one.kept(MEMORY)]

    @precondition(lambda self: self.handles)
    @rule(number=numbers, most=st.one_of(st.none(), st.integers(1, 3)))
    def reserve_fetch(self, number: int, most: int | None) -> None:
        if not self.handles:
            return
        held = self.handles[number % len(self.handles)]
        wanted: list[ModelChunk] = []
        for chunk in self.model.chain(held.last):
            if chunk.kept(MEMORY):
                continue
            if not chunk.visible(DISK):
                break
            wanted.append(chunk)
        wanted = self.within_quotas(wanted[:most])
        room = self.model.free(MEMORY)
        refs, missing = self.index.reserve_fetch(held.handle, max_chunks=most)
        assert len(refs) == min(len(wanted), room)
        assert missing == len(wanted) - len(refs)
        for ref, chunk in zip(refs, wanted, strict=False):
            self.model.begin_writing(chunk, MEMORY, int(ref["memory_offset"]))
            chunk.uses[DISK] += 1
        self.compare_refs(refs, wanted[: len(refs)])
        self.begin_command("fetch", refs, wanted[: len(refs)])

    def within_quotas(self, chunks: list[ModelChunk]) -> list[ModelChunk]:
        if not chunks:
            return []
        space, paths = chunks[0].space, [chunk.path for chunk in chunks]
        self.model.evict_for_quotas(space, paths, MEMORY, fresh=True)
        return chunks[: len(self.model.within_quotas(space, paths, MEMORY))]

    @precondition(lambda self: self.is_running("fetch"))
    @rule(number=numbers, corrupt=st.booleans())
    def end_fetch(self, number: int, corrupt: bool) -> None:
        command = self.pick(number, "fetch")
        num_ok = self.num_ok(number, command)
        self.index.complete_fetch(command.refs, num_ok, corrupt)
        pairs = list(zip(command.chunks, command.refs["memory_offset"].tolist(), strict=True))
        for chunk, offset in pairs[:num_ok]:
            if self.model.end_use(chunk, MEMORY, offset):
                self.model.set_ready(chunk, MEMORY)
        self.model.fail_writing(pairs[num_ok:], MEMORY)
        for ref, chunk in zip(command.refs, command.chunks, strict=True):
            self.model.end_reading(chunk, DISK, int(ref["disk_offset"]))
        if corrupt and num_ok < len(command.chunks):
            bad, ref = command.chunks[num_ok], command.refs[num_ok]
            if bad.offset[DISK] == int(ref["disk_offset"]):
                self.model.failed[DISK] += 1
                self.model.vacate_with_all_below(bad, DISK)

    @rule(most=st.integers(1, 9))
    def spill(self, most: int) -> None:
        self.reserve_spill(most)
        if self.is_running("spill"):
            self.end_spill(255 * 256, retry=False)

    # --- Restarting ---

    @precondition(lambda self: self.is_rich())
    @rule(number=numbers)
    def restart(self, number: int) -> None:
        """What is ready on disk comes back, in another process."""
        if number % 4:
            return
        kept = sorted(
            (chunk for chunk in self.model.chunks.values() if self.survives(chunk)),
            key=lambda chunk: (chunk.start, chunk.id),
        )
        self.teardown()
        self.begin()
        places = {(chunk.space, chunk.path): place for place, chunk in enumerate(kept)}
        self.index.restore_disk(
            np.array([places.get((c.space, c.path[: c.start]), -1) for c in kept], np.int64),
            np.array([chunk.num_tokens for chunk in kept], np.uint16),
            np.array([t for chunk in kept for t in chunk.path[chunk.start :]], np.uint32),
            np.array([chunk.offset[DISK] for chunk in kept], np.uint32),
            np.ones(len(kept), np.uint16),
            np.array([chunk.space for chunk in kept], np.int32),
            list(DIGESTS),
            np.array([chunk.time for chunk in kept], np.uint64),
        )
        self.time = max((chunk.time for chunk in kept), default=0)
        for chunk in kept:
            refs = self.index.match(as_array(chunk.path), self.spaces[chunk.space]).slices()
            assert len(refs) == chunk.start // CHUNK_TOKENS + 1
            (found,) = self.learn(refs[-1:], chunk.space, [chunk.path])
            found.time = chunk.time
            found.state[DISK], found.offset[DISK] = READY, chunk.offset[DISK]

    def survives(self, chunk: ModelChunk) -> bool:
        if any(not above.visible(DISK) for above in self.model.chain(chunk)):
            return False
        return self.model.is_full(chunk) or self.model.cover(chunk, DISK) == 0

    # --- After each step ---

    @invariant()
    def the_index_says_what_the_model_says(self) -> None:
        global steps_done
        steps_done += 1
        self.index.check_invariants()
        stats = self.index.stats()
        chunks = list(self.model.chunks.values())
        assert stats.chunks == self.model.num_records()
        assert stats.tokens == self.model.num_tree_tokens()
        assert stats.pins == len(self.handles)
        assert stats.dropped_chunks == self.model.num_dropped
        for tier, native in zip(TIERS, (stats.memory, stats.disk), strict=True):
            states = [chunk.state[tier] for chunk in chunks]
            limbo = self.model.limbo[tier]
            assert native.ready_chunks == states.count(READY)
            assert native.writing_chunks == len(states) - states.count(READY) - states.count(ABSENT)
            assert native.used_units == self.model.used(tier)
            assert native.limbo_extents == len(limbo)
            assert native.uses == sum(c.uses[tier] for c in chunks) + sum(limbo.values())
            assert native.evicted_chunks == self.model.evicted[tier]
            assert native.failed_chunks == self.model.failed[tier]

    @invariant()
    def every_match_is_what_the_model_finds(self) -> None:
        probes = {(chunk.space, chunk.path) for chunk in self.model.chunks.values()}
        probes |= {(space, (*path[:-1], 1 - path[-1], 0)) for space, path in sorted(probes)[::3]}
        for space, path in sorted(probes):
            found = self.index.match(as_array(path), self.spaces[space])
            expected = self.model.match(space, path, TIERS)
            assert found.num_tokens == expected.num_tokens
            assert found.num_memory_tokens == self.model.match(space, path, (MEMORY,)).num_tokens
            chain = self.model.chain(expected.last)
            self.compare_refs(found.slices(), chain)
        for held in self.handles:
            assert held.handle.num_memory_tokens == self.model.num_memory_tokens(
                held.last, held.num_tokens
            )
            self.compare_refs(held.handle.slices(), self.model.chain(held.last))

    def teardown(self) -> None:
        """In the end nothing is held, and everything can leave."""
        for command in self.commands:
            self.finish(command)
        for held in self.handles:
            held.handle.close()
        self.index.clear_all()
        self.take_all_marks_back()
        self.index.check_invariants()
        stats = self.index.stats()
        assert (stats.chunks, stats.tokens, stats.nodes) == (0, 0, len(DIGESTS))
        assert (stats.memory.used_units, stats.disk.used_units) == (0, 0)

    def finish(self, command: Command) -> None:
        if command.kind == "load":
            self.index.release_uses(command.refs)
        elif command.kind == "store":
            self.index.complete_store(command.refs, len(command.refs))
        elif command.kind == "spill":
            self.index.complete_spill(command.refs, len(command.refs))
        else:
            self.index.complete_fetch(command.refs, len(command.refs))


def run(policy: ModelPolicy, folder: FilePath, max_examples: int, num_steps: int) -> int:
    """How many steps were compared."""
    before = steps_done
    run_state_machine_as_test(
        type("IndexMachine", (IndexMachine,), {"policy": policy, "file": folder / "index"}),
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=num_steps,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return steps_done - before


def named(policy: ModelPolicy) -> str:
    return policy.name


@pytest.mark.parametrize("policy", MODEL_POLICIES, ids=named)
def test_the_index_does_what_the_model_does(policy, tmp_path):
    assert run(policy, tmp_path, max_examples=4, num_steps=50) > 50


@pytest.mark.long
@pytest.mark.parametrize("policy", MODEL_POLICIES, ids=named)
def test_the_index_does_what_the_model_does_over_20000_steps(policy, tmp_path):
    assert run(policy, tmp_path, max_examples=100, num_steps=120) >= 20_000 / len(MODEL_POLICIES)
