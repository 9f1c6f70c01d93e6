"""The control plane, driven by values alone: completions are scripted, races replayed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from radixkv.commands import Clear, Completion, CompletionStatus, Fetch, Load, Spill, Store
from radixkv.config import CacheConfig
from radixkv.layout import KVLayout
from radixkv.planner import Planner
from radixkv.ticks import Rates, TickRecord, decode, encode

CHUNK = 16
LAYOUT = KVLayout(num_layers=2, num_kv=2, row_bytes=1024, dtype="float16")
CHUNK_UNITS = 16
OK, FAILED, CORRUPT = CompletionStatus.OK, CompletionStatus.FAILED, CompletionStatus.CORRUPT


def make_planner(*, memory_chunks: int = 8, disk_chunks: int = 0, **settings) -> Planner:
    return Planner(
        LAYOUT,
        CacheConfig(chunk_tokens=CHUNK, **settings),
        memory_units=memory_chunks * CHUNK_UNITS,
        disk_units=disk_chunks * CHUNK_UNITS,
    )


def prompt(seed: int, num_chunks: int = 2, rest: int = 0) -> np.ndarray:
    tokens = np.random.default_rng(seed).integers(0, 50_000, num_chunks * CHUNK + rest)
    return tokens.astype(np.uint32)


def identity_slots(first: int, last: int) -> np.ndarray:
    return np.arange(first, last, dtype=np.int64)


def end(planner: Planner, *, status: CompletionStatus = OK, num_ok: int | None = None) -> list:
    """End every command under way, and what follows from it, in one tick each."""
    ended = []
    while planner.pending_ids:
        commands = [planner._ledger.pending[i] for i in planner.pending_ids]
        completions = tuple(
            Completion(c.command_id, len(c.chunks) if num_ok is None else num_ok, status)
            for c in commands
        )
        planner.apply(TickRecord(1000, completions))
        ended += commands
        status, num_ok = OK, None  # only the first round is scripted
    planner.take_commands()
    return ended


def store(planner: Planner, tokens: np.ndarray) -> Store | None:
    return planner.store(tokens, identity_slots, time=planner.new_admission())


def make_planner_with_on_disk(tokens: np.ndarray, **settings) -> Planner:
    """A planner that keeps these tokens on disk and nothing in memory."""
    planner = make_planner(disk_chunks=8, **settings)
    store(planner, tokens)
    end(planner)
    planner.clear(disk=False)
    return planner


def test_a_store_is_visible_only_when_its_bytes_are_down():
    planner = make_planner()
    tokens = prompt(1, 2, rest=5)

    command = store(planner, tokens)

    assert command.slots.tolist() == list(range(37))
    assert planner.match(tokens).num_tokens == 0
    end(planner)
    assert planner.match(tokens).num_memory_tokens == 37


def test_a_store_keeps_what_landed_before_it_failed():
    planner = make_planner()
    tokens = prompt(1, 3)
    store(planner, tokens)

    end(planner, status=FAILED, num_ok=2)

    assert planner.match(tokens).num_tokens == 2 * CHUNK
    assert planner.counters.stores_failed == CHUNK
    planner.index.check_invariants()


def test_nothing_is_stored_twice():
    planner = make_planner()
    tokens = prompt(1, 2)
    store(planner, tokens)

    assert store(planner, tokens) is None
    end(planner)
    assert store(planner, tokens) is None


def test_a_full_memory_makes_room_but_keeps_the_prefix_it_stores_on():
    planner = make_planner(memory_chunks=4)
    shared = prompt(1, 2)
    other = prompt(2, 2)
    for tokens in (shared, other):
        store(planner, tokens)
        end(planner)

    longer = np.concatenate([shared, prompt(3, 2)])
    store(planner, longer)
    end(planner)

    assert planner.match(longer).num_memory_tokens == 4 * CHUNK
    assert planner.match(other).num_memory_tokens == 0


def test_a_store_is_dropped_and_counted_while_too_much_is_under_way():
    planner = make_planner()
    planner._max_store_tokens = CHUNK
    store(planner, prompt(1))

    assert store(planner, prompt(2)) is None
    assert planner.counters.stores_dropped == 1
    end(planner)
    assert store(planner, prompt(2)) is not None


def test_slots_that_cannot_be_given_leave_nothing_reserved():
    planner = make_planner()

    def refuse(first: int, last: int) -> np.ndarray:
        raise RuntimeError("no slots")

    with pytest.raises(RuntimeError, match="no slots"):
        planner.store(prompt(1), refuse, time=1)

    assert planner.index.stats().memory.used_units == 0
    assert store(planner, prompt(1)) is not None


def test_a_load_holds_its_chunks_though_its_handle_is_closed():
    planner = make_planner(memory_chunks=2)
    tokens = prompt(1, 2)
    store(planner, tokens)
    end(planner)

    with planner.acquire(tokens) as handle:
        load = planner.load(handle, 3, np.arange(20, dtype=np.int64))
    assert int(load.chunks["count"].sum()) == 20
    assert store(planner, prompt(2, 2)) is None  # nothing can be evicted for it

    end(planner)
    assert store(planner, prompt(2, 2)) is not None


def test_stored_chunks_are_spilled_parents_first():
    planner = make_planner(disk_chunks=8)
    tokens = prompt(1, 3, rest=4)
    store(planner, tokens)

    ended = end(planner)

    spill = next(command for command in ended if isinstance(command, Spill))
    assert spill.chunks["span"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(spill.tokens, tokens)
    planner.clear(disk=False)
    match = planner.match(tokens)
    assert (match.num_tokens, match.num_memory_tokens) == (52, 0)


def test_a_full_disk_makes_room_for_what_is_newer():
    planner = make_planner(memory_chunks=8, disk_chunks=4)
    for seed in range(4):
        store(planner, prompt(seed, 2))
        end(planner)
    planner.clear(disk=False)

    kept = [planner.match(prompt(seed, 2)).num_tokens for seed in range(4)]

    assert kept == [0, 0, 2 * CHUNK, 2 * CHUNK]


def test_a_prompt_that_outgrows_the_disk_is_not_written_for_ever():
    planner = make_planner(memory_chunks=40, disk_chunks=24)
    store(planner, prompt(1, 8))
    end(planner)
    store(planner, prompt(2, 8))
    end(planner)
    tokens = np.concatenate([prompt(1, 8), prompt(3, 16)])

    store(planner, tokens)
    ended = end(planner)

    assert sum(len(command.chunks) for command in ended if isinstance(command, Spill)) <= 24
    assert planner.index.stats().disk.ready_chunks == 24
    planner.index.check_invariants()


def test_a_disk_that_fails_is_left_alone_and_tried_again():
    planner = make_planner(disk_chunks=8)
    store(planner, prompt(1))
    planner.apply(TickRecord(0, (Completion(1, 2, OK),)))
    end(planner, status=FAILED, num_ok=0)
    store(planner, prompt(2))

    assert not any(isinstance(command, Spill) for command in end(planner))
    planner.apply(TickRecord(2_000_000, ()))
    assert any(isinstance(command, Spill) for command in end(planner))


def test_prefetch_brings_the_disk_into_memory():
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens)

    prefetch = planner.prefetch(tokens)
    assert not prefetch.done
    end(planner)

    assert prefetch.done
    assert planner.end_prefetch(prefetch) == 3 * CHUNK
    assert planner.match(tokens).num_memory_tokens == 3 * CHUNK
    assert planner.index.stats().pins == 0


def test_prefetch_has_nothing_to_do_when_memory_has_it_all():
    planner = make_planner(disk_chunks=8)
    store(planner, prompt(1))
    end(planner)

    assert planner.prefetch(prompt(1)) is None
    assert planner.prefetch(prompt(2)) is None


def test_a_late_prefetch_is_waited_for_no_longer():
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens, prefetch_deadline_s=1.0)

    prefetch = planner.prefetch(tokens)
    planner.apply(TickRecord(60_000_000, ()))  # of them the engine slept for most
    assert not prefetch.done
    planner.apply(TickRecord(999_000, ()))
    assert not prefetch.done
    planner.apply(TickRecord(2_000, ()))

    assert prefetch.done
    assert planner.counters.prefetches_late == 1
    assert planner.end_prefetch(prefetch) == 0
    end(planner)
    assert planner.match(tokens).num_memory_tokens == 3 * CHUNK  # for whoever comes next


@pytest.mark.parametrize(("fetch_rate", "is_worth_it"), [(10**9, True), (10**4, False), (0, True)])
def test_a_prefetch_that_takes_longer_than_computing_is_not_begun(fetch_rate, is_worth_it):
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens)

    planner.apply(TickRecord(0, (), Rates(fetch_rate, compute_tokens_per_s=1000)))
    prefetch = planner.prefetch(tokens)

    assert (prefetch is not None) == is_worth_it
    assert planner.counters.prefetches_dear == (not is_worth_it)


def test_a_dear_disk_is_measured_again_now_and_then():
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens)
    planner.apply(TickRecord(0, (), Rates(10**4, compute_tokens_per_s=1000)))

    begun = [planner.prefetch(tokens) is not None for _ in range(20)]

    assert begun.count(True) == 1


def test_two_prefetches_of_one_prompt_read_it_once():
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens)

    first, second = planner.prefetch(tokens), planner.prefetch(tokens)
    fetched = [command for command in end(planner) if isinstance(command, Fetch)]

    assert sum(len(command.chunks) for command in fetched) == 3
    assert first.done
    assert second.done
    for prefetch in (first, second):
        assert planner.end_prefetch(prefetch) == 3 * CHUNK


def test_a_corrupt_chunk_is_a_miss_and_leaves_the_disk():
    tokens = prompt(1, 3)
    planner = make_planner_with_on_disk(tokens)

    prefetch = planner.prefetch(tokens)
    end(planner, status=CORRUPT, num_ok=1)
    planner.end_prefetch(prefetch)

    assert planner.match(tokens).num_tokens == CHUNK
    assert planner.counters.fetches_corrupt == 2 * CHUNK
    planner.index.check_invariants()


def test_dropping_a_prefix_clears_the_disk_too():
    planner = make_planner(disk_chunks=8)
    tokens = prompt(1, 3)
    store(planner, tokens)
    end(planner)

    planner.drop(tokens[:CHUNK])

    assert planner.match(tokens).num_tokens == 0
    assert any(isinstance(command, Clear) for command in planner.take_commands())


class Rank:
    """One rank: a planner, and an executor that ends commands late and sometimes badly."""

    def __init__(self, seed: int) -> None:
        self.planner = make_planner(memory_chunks=6, disk_chunks=10)
        self.random = random.Random(seed)
        self.working: list = []
        self.heard: dict[int, Completion] = {}

    def step(self) -> np.ndarray:
        self.working += self.planner.take_commands()
        for command in list(self.working):
            if self.random.random() < 0.4:
                self.working.remove(command)
                num_ok = len(command.chunks)
                status = OK
                if not isinstance(command, Load) and self.random.random() < 0.2:
                    num_ok = self.random.randrange(num_ok + 1)
                    status = self.random.choice([FAILED, CORRUPT])
                self.heard[command.command_id] = Completion(command.command_id, num_ok, status)
        pending = self.planner.pending_ids
        return encode(self.random.randrange(5000), self.planner.num_issued, pending, self.heard)

    def agree(self, row: np.ndarray) -> None:
        self.planner.apply(decode(row, self.planner.pending_ids))


@pytest.mark.parametrize("seed", range(20))
def test_replicas_stay_equal_whatever_each_rank_hears_when(seed):
    requests = random.Random(seed)
    ranks = [Rank(100 + seed), Rank(200 + seed)]
    prefetches: list[list] = []

    for _ in range(150):
        tokens = prompt(requests.randrange(6), 1 + requests.randrange(4), requests.randrange(CHUNK))
        action = requests.random()
        for place, rank in enumerate(ranks):
            planner = rank.planner
            if action < 0.5:
                store(planner, tokens)
            elif action < 0.7:
                with planner.acquire(tokens, time=planner.new_admission()) as handle:
                    if handle.num_memory_tokens:
                        planner.load(handle, 0, np.arange(handle.num_memory_tokens))
            elif action < 0.9:
                if place == 0:
                    prefetches.append([])
                prefetches[-1].append(planner.prefetch(tokens))
            elif action < 0.95:
                planner.drop(tokens[:CHUNK])
        row = np.minimum(ranks[0].step(), ranks[1].step())
        for rank in ranks:
            rank.agree(row)
        assert ranks[0].planner.index.state_hash() == ranks[1].planner.index.state_hash()
        for pair in [p for p in prefetches if p[0] is None or p[0].done]:
            prefetches.remove(pair)
            brought = {
                rank.planner.end_prefetch(p) for rank, p in zip(ranks, pair, strict=True) if p
            }
            assert len(brought) <= 1
    ranks[0].planner.index.check_invariants()
