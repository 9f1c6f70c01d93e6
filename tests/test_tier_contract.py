"""What every tier promises: what goes in comes out, or nothing does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from dataplane import FakeEngine, chunk, fetch, load, path_of_chunks, slots_from, spill, store

from radixkv.commands import ChunkArray, Completion, CompletionStatus
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(3, 2, 50, "uint8")
NUM_SLOTS = 2048


@dataclass
class Tier:
    """One tier under test: chunks are put from engine slots and taken out to others."""

    executor: Executor
    engine: FakeEngine
    put: Callable[[ChunkArray, np.ndarray], Completion]
    take: Callable[[ChunkArray, np.ndarray], Completion]


def memory_tier(executor: Executor, engine: FakeEngine) -> Tier:
    return Tier(
        executor,
        engine,
        put=lambda chunks, slots: store(executor, chunks, slots),
        take=lambda chunks, slots: load(executor, chunks, slots),
    )


def disk_tier(executor: Executor, engine: FakeEngine) -> Tier:
    def put(chunks: ChunkArray, slots: np.ndarray) -> Completion:
        store(executor, chunks, slots)
        completion = spill(executor, chunks)
        forget_memory()
        return completion

    def take(chunks: ChunkArray, slots: np.ndarray) -> Completion:
        forget_memory()
        completion = fetch(executor, chunks)
        done = int(chunks["count"][: completion.num_ok].sum())
        if completion.num_ok:
            load(executor, chunks[: completion.num_ok], slots[:done])
        return completion

    def forget_memory() -> None:
        units_per_chunk = int(chunk(executor, 0)["num_units"][0])
        everything = [
            chunk(executor, index, generation=999)
            for index in range(executor.memory_units // units_per_chunk)
        ]
        store(executor, np.concatenate(everything), np.zeros(64 * len(everything), np.int64))

    return Tier(executor, engine, put, take)


@pytest.fixture(params=["memory", "disk: auto", "disk: threads"])
def tier(request, tmp_path):
    name, _, io_engine = request.param.partition(": ")
    disk = None
    if name == "disk":
        disk = DiskOptions(
            tmp_path,
            4 << 20,
            io_engine=io_engine,
            piece_bytes=4096,
            depth=3,
            sync_interval_s=0,
        )
    with Executor(LAYOUT, memory_bytes=1 << 20, disk=disk, pin=False) as executor:
        engine = FakeEngine(LAYOUT, NUM_SLOTS)
        executor.attach(engine.memory())
        yield (memory_tier if disk is None else disk_tier)(executor, engine)


def test_what_goes_in_comes_out(tier):
    chunks = path_of_chunks(tier.executor, [3, 0, 5, 1])
    source, target = slots_from(0, 256), slots_from(1000, 256)

    put = tier.put(chunks, source)
    taken = tier.take(chunks, target)

    assert put.status == taken.status == CompletionStatus.OK
    assert put.num_ok == taken.num_ok == 4
    assert tier.engine.token_bytes(target) == tier.engine.token_bytes(source)


@pytest.mark.parametrize("num_tokens", [1, 17, 63])
def test_a_tail_comes_out_as_long_as_it_is(tier, num_tokens):
    tail = chunk(tier.executor, 2, num_tokens=num_tokens)
    target = slots_from(1000, num_tokens)

    tier.put(tail, slots_from(0, num_tokens))
    taken = tier.take(tail, target)

    assert taken.num_ok == 1
    assert tier.engine.token_bytes(target) == tier.engine.token_bytes(slots_from(0, num_tokens))
    assert tier.engine.guards_are_intact()


def test_what_was_never_put_does_not_come_out(tier):
    before = tier.engine.token_bytes(slots_from(0, NUM_SLOTS))

    taken = tier.take(chunk(tier.executor, 0), slots_from(0, 64))

    assert taken.num_ok == 0
    assert taken.status == CompletionStatus.CORRUPT
    assert tier.engine.token_bytes(slots_from(0, NUM_SLOTS)) == before


def test_another_generation_does_not_come_out(tier):
    tier.put(chunk(tier.executor, 0, generation=1), slots_from(0, 64))

    taken = tier.take(chunk(tier.executor, 0, generation=2), slots_from(1000, 64))

    assert taken.num_ok == 0
    assert taken.status == CompletionStatus.CORRUPT


def test_another_chunk_in_the_place_replaces_what_was_there(tier):
    first, second = chunk(tier.executor, 0), chunk(tier.executor, 0, generation=2)
    tier.put(first, slots_from(0, 64))
    tier.put(second, slots_from(500, 64))

    gone = tier.take(first, slots_from(1000, 64))
    there = tier.take(second, slots_from(1000, 64))

    assert gone.num_ok == 0
    assert there.num_ok == 1
    assert tier.engine.token_bytes(slots_from(1000, 64)) == tier.engine.token_bytes(
        slots_from(500, 64)
    )


def test_a_chunk_that_is_overwritten_in_part_is_gone(tier):
    whole = chunk(tier.executor, 0)
    part = chunk(tier.executor, 1, num_tokens=8)
    for offset in ("memory_offset", "disk_offset"):
        part[offset] = whole[offset] + whole["num_units"] - 1
    tier.put(whole, slots_from(0, 64))

    tier.put(part, slots_from(500, 8))

    assert tier.take(whole, slots_from(1000, 64)).num_ok == 0
    assert tier.take(part, slots_from(1000, 8)).num_ok == 1


def test_only_the_chunks_before_a_missing_one_come_out(tier):
    chunks = path_of_chunks(tier.executor, [0, 1, 2, 3])
    tier.put(chunks[:2], slots_from(0, 128))

    taken = tier.take(chunks, slots_from(1000, 256))

    assert taken.num_ok == 2
    assert taken.status == CompletionStatus.CORRUPT
    assert tier.engine.token_bytes(slots_from(1000, 128)) == tier.engine.token_bytes(
        slots_from(0, 128)
    )


def test_many_chunks_in_changing_places_stay_right(tier):
    random = np.random.default_rng(7)
    places: dict[int, tuple[ChunkArray, np.ndarray]] = {}
    for generation in range(1, 40):
        place = int(random.integers(0, 8))
        num_tokens = int(random.integers(1, 65))
        record = chunk(tier.executor, place, num_tokens=num_tokens, generation=generation)
        slots = random.permutation(1000)[:num_tokens].astype(np.int64)
        assert tier.put(record, slots).num_ok == 1
        places[place] = (record, slots)

    for record, slots in places.values():
        target = slots_from(1000, len(slots))
        assert tier.take(record, target).num_ok == 1
        assert tier.engine.token_bytes(target) == tier.engine.token_bytes(slots)
