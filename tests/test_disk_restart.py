"""What a disk tier finds when it is opened again, and what it must not find."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dataplane import (
    NAMESPACE,
    FakeEngine,
    chunk,
    clear,
    fetch,
    load,
    path_of_chunks,
    slots_from,
    spill,
    store,
    tokens_of,
)

from radixkv.commands import Clear, CompletionStatus, Spill
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskInspection, DiskOptions, inspect_folder

LAYOUT = KVLayout(2, 2, 32, "uint8")
BLOCK = 4096
CAPACITY = 2 << 20
MAGIC = b"rkvchunk"


@pytest.fixture
def engine():
    return FakeEngine(LAYOUT, 2048)


@pytest.fixture
def open_tier(tmp_path, engine):
    @contextmanager
    def open_tier(capacity_bytes=CAPACITY, **options):
        disk = DiskOptions(tmp_path, capacity_bytes, **({"sync_interval_s": 0} | options))
        with Executor(LAYOUT, memory_bytes=1 << 20, disk=disk, pin=False) as executor:
            executor.attach(engine.memory())
            yield executor

    return open_tier


@pytest.fixture
def file(tmp_path):
    return RankFile(tmp_path / "rank0.radixkv")


class RankFile:
    """The blocks of a closed tier's file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, offset: int, num_bytes: int) -> bytes:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), num_bytes, offset)

    def write(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def flip(self, offset: int, bit: int = 0) -> None:
        self.write(offset, bytes([self.read(offset, 1)[0] ^ (1 << bit)]))

    def header_offsets(self) -> list[int]:
        """Offsets of headers that are not free."""
        offsets = range(BLOCK, self.payload_offset(), BLOCK)
        return [offset for offset in offsets if self.read(offset, 8) == MAGIC]

    def payload_offset(self) -> int:
        (capacity_units,) = struct.unpack("<I", self.read(20, 4))
        headers_end = BLOCK * (1 + capacity_units // 4)
        return -(-headers_end // 2**20) * 2**20


def put(executor, chunks, *, slots=None, **spilled):
    num_tokens = int(chunks["num_tokens"].sum())
    store(executor, chunks, slots_from(0, num_tokens) if slots is None else slots)
    completion = spill(executor, chunks, **spilled)
    assert completion.status == CompletionStatus.OK


def offsets(executor):
    units_per_chunk = int(chunk(executor, 0)["num_units"][0])
    return [int(offset) // units_per_chunk for offset in executor.restored.disk_offset]


def test_a_restart_brings_back_chunks_parents_first(open_tier, engine):
    with open_tier() as executor:
        path = path_of_chunks(executor, [4, 2, 7])
        tail = chunk(executor, 1, num_tokens=9, span=3, parent=7)
        chunks = np.concatenate([path, tail])
        put(executor, chunks, sequence=100)

    with open_tier() as executor:
        restored = executor.restored
        target = slots_from(1000, 201)
        chunks["generation"] = 5  # ids are drawn anew after a restart
        chunks["id"] += 50
        fetched = fetch(executor, chunks)
        loaded = load(executor, chunks, target)

    assert fetched.num_ok == loaded.num_ok == 4
    assert engine.token_bytes(target) == engine.token_bytes(slots_from(0, 201))
    assert len(restored) == 4
    assert restored.parent_index.tolist() == [-1, 0, 1, 2]
    assert restored.num_tokens.tolist() == [64, 64, 64, 9]
    assert restored.disk_offset.tolist() == chunks["disk_offset"].tolist()
    assert restored.num_units.tolist() == chunks["num_units"].tolist()
    assert restored.sequence.tolist() == [100, 101, 102, 103]
    assert restored.digests == [NAMESPACE]
    assert restored.namespace_index.tolist() == [0] * 4
    assert set(restored.dropped.values()) == {0}
    before = chunks.copy()
    before["id"] -= 50
    assert restored.tokens.tolist() == tokens_of(before).tolist()


def test_headers_are_found_wherever_they_lie(open_tier, file):
    with open_tier(capacity_bytes=20 * CAPACITY) as executor:
        path = path_of_chunks(executor, list(range(8)))
        put(executor, path)
    headers = [(offset, file.read(offset, BLOCK)) for offset in file.header_offsets()]
    for offset, header in headers:  # last ones first, far from each other
        file.write(offset, bytes(BLOCK))
        file.write(BLOCK * (2000 - 240 * offset // BLOCK), header)

    with open_tier(capacity_bytes=20 * CAPACITY) as executor:
        assert offsets(executor) == list(range(8))
        assert executor.restored.tokens.tolist() == tokens_of(path).tolist()
        assert fetch(executor, path).num_ok == 8


def test_a_parent_comes_first_though_it_was_written_last(open_tier):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1]), sequence=100)
        put(executor, chunk(executor, 2, span=2, parent=1), sequence=50)
        put(executor, chunk(executor, 3), sequence=70)
        put(executor, chunk(executor, 4, span=2, parent=1), sequence=60)

    with open_tier() as executor:
        assert offsets(executor) == [0, 1, 2, 4, 3]
        assert executor.restored.parent_index.tolist() == [-1, 0, 1, 1, -1]


def test_keys_follow_from_namespace_and_tokens_alone(open_tier, tmp_path):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1]), tokens=np.arange(128, dtype=np.uint32))
    with open_tier() as executor:
        there = executor.restored
        clear(executor, path_of_chunks(executor, [0, 1]))
        moved = path_of_chunks(executor, [5, 3])
        put(executor, moved, tokens=np.arange(128, dtype=np.uint32), sequence=9)
    with open_tier() as executor:
        moved = executor.restored

    assert there.keys.shape == (2, 16)
    assert (there.keys == moved.keys).all()


def test_namespaces_are_told_apart(open_tier):
    other = bytes(16)
    tokens = np.arange(64, dtype=np.uint32)
    with open_tier() as executor:
        put(executor, chunk(executor, 0), tokens=tokens)
        put(executor, chunk(executor, 1), tokens=tokens, namespace=other, sequence=2)

    with open_tier() as executor:
        restored = executor.restored

    names = [restored.digests[index] for index in restored.namespace_index]
    assert sorted(names) == sorted([NAMESPACE, other])
    assert (restored.keys[0] != restored.keys[1]).any()


def test_a_cleared_chunk_does_not_come_back(open_tier):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1]))
        assert clear(executor, chunk(executor, 1, span=1, parent=0)).num_ok == 1

    with open_tier() as executor:
        assert offsets(executor) == [0]


def test_a_close_that_waits_for_nothing_still_clears(open_tier):
    with open_tier(piece_bytes=BLOCK, depth=1) as executor:
        put(executor, chunk(executor, 0))
        others = [chunk(executor, number) for number in range(1, 12)]
        for other in others:
            store(executor, other, slots_from(0, 64))
        for number, other in enumerate(others, 100):
            executor.submit(Spill(number, other, tokens_of(other), NAMESPACE, number))
        executor.submit(Clear(200, chunk(executor, 0)))
        executor.close(drain_s=0)

    with open_tier() as executor:
        assert 0 not in offsets(executor)


def test_clearing_what_is_not_there_is_done_at_once(open_tier):
    with open_tier() as executor:
        completion = clear(executor, chunk(executor, 9))

    assert completion.status == CompletionStatus.OK


def test_an_overwritten_chunk_does_not_come_back_nor_do_its_children(open_tier):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1, 2]))
        put(executor, chunk(executor, 30, disk=0), sequence=10)

    with open_tier() as executor:
        assert offsets(executor) == [0]
        assert executor.restored.dropped["orphan"] == 2
    with open_tier() as executor:  # what was dropped once is gone for good
        assert executor.restored.dropped["orphan"] == 0


def test_a_spill_without_its_parent_fails(open_tier):
    with open_tier() as executor:
        chunks = path_of_chunks(executor, [0, 1])
        store(executor, chunks, slots_from(0, 128))

        completion = spill(executor, chunks[1:])

    assert completion.num_ok == 0
    assert completion.status == CompletionStatus.FAILED


def test_a_spill_of_what_memory_does_not_hold_is_corrupt(open_tier):
    with open_tier() as executor:
        completion = spill(executor, chunk(executor, 0))

    assert completion.status == CompletionStatus.CORRUPT


def test_headers_run_out_before_units_do(open_tier):
    with open_tier() as executor:
        num_headers = executor.disk_units // 4
        tiny = [chunk(executor, 0, num_tokens=1) for _ in range(num_headers + 1)]
        store(executor, tiny[0], slots_from(0, 1))
        for unit, record in enumerate(tiny):
            record["disk_offset"] = unit
        tokens = np.arange(num_headers + 1, dtype=np.uint32)
        completion = spill(executor, np.concatenate(tiny), tokens=tokens)

    assert completion.num_ok == num_headers
    assert completion.status == CompletionStatus.FULL


@pytest.mark.parametrize("io_engine", ["auto", "threads"])
@pytest.mark.parametrize("place", ["first", "middle", "last", "padding"])
def test_a_flipped_payload_bit_is_found(open_tier, file, io_engine, place):
    with open_tier() as executor:
        tail = chunk(executor, 0, num_tokens=40)
        put(executor, tail)
        stored = 40 * LAYOUT.token_bytes
        extent = int(tail["num_units"][0]) * executor.unit_bytes
    at = {"first": 0, "middle": stored // 2, "last": stored - 1, "padding": extent - 1}[place]
    file.flip(file.payload_offset() + at, bit=at % 8)

    with open_tier(io_engine=io_engine) as executor:
        completion = fetch(executor, tail)
        loaded = load(executor, tail, slots_from(0, 40))

        assert completion.num_ok == 0
        assert completion.status == CompletionStatus.CORRUPT
        assert loaded.num_ok == 0
        assert executor.stats().fetch.num_corrupt == 1
    assert inspect_folder(file.path.parent)[0].verify() == [0]


HEADER_FIELDS = {
    "magic": 0,
    "version": 8,
    "codec": 12,
    "layout": 16,
    "namespace": 32,
    "group": 48,
    "key": 64,
    "parent key": 80,
    "sequence": 96,
    "stored bytes": 104,
    "payload checksum": 112,
    "span": 120,
    "disk offset": 124,
    "num units": 128,
    "num tokens": 130,
    "reserved": 132,
    "first token": 136,
    "last token": 136 + 4 * 511,
    "unused": 2300,
    "checksum": 4088,
    "end": 4095,
}


@pytest.mark.parametrize("at", HEADER_FIELDS.values(), ids=HEADER_FIELDS.keys())
def test_a_flipped_header_bit_is_found(open_tier, file, at):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1]))
    file.flip(file.header_offsets()[1] + at, bit=at % 8)

    with open_tier() as executor:
        assert offsets(executor) == [0]
        assert executor.restored.dropped["torn"] == 1
        assert fetch(executor, chunk(executor, 1, span=1, parent=0)).num_ok == 0


@pytest.mark.parametrize("torn_at", [512, 2048, 4080])
def test_a_torn_header_is_found(open_tier, file, torn_at):
    with open_tier() as executor:
        put(executor, chunk(executor, 0))
    file.write(file.header_offsets()[0] + torn_at, bytes(BLOCK - torn_at))

    with open_tier() as executor:
        assert len(executor.restored) == 0
        assert executor.restored.dropped["torn"] == 1


def test_of_overlapping_chunks_the_newest_stays(open_tier, file):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1]), sequence=1)
    old_headers = [file.read(offset, BLOCK) for offset in file.header_offsets()]
    with open_tier() as executor:
        put(executor, chunk(executor, 40, disk=0), sequence=10)
    # As if the clearing of the old header had been lost: it overlaps the new one.
    free = max(file.header_offsets()) + BLOCK
    file.write(free, old_headers[0])

    with open_tier() as executor:
        assert executor.restored.sequence.tolist() == [10]
        assert executor.restored.dropped["overlapped"] == 1
        assert executor.restored.dropped["orphan"] == 1


def test_of_one_key_twice_the_newest_stays(open_tier, file):
    tokens = np.arange(64, dtype=np.uint32)
    with open_tier() as executor:
        put(executor, chunk(executor, 0), tokens=tokens, sequence=1)
        old_header = file.read(file.header_offsets()[0], BLOCK)
        clear(executor, chunk(executor, 0))
        put(executor, chunk(executor, 5), tokens=tokens, sequence=2)
    file.write(file.header_offsets()[0] + 3 * BLOCK, old_header)

    with open_tier() as executor:
        assert offsets(executor) == [5]
        assert executor.restored.sequence.tolist() == [2]
        assert executor.restored.dropped["duplicate"] == 1


def test_a_parent_that_is_torn_takes_its_descendants_along(open_tier, file):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1, 2, 3]))
        put(executor, chunk(executor, 9), sequence=50)
    file.flip(file.header_offsets()[1])

    with open_tier() as executor:
        assert sorted(offsets(executor)) == [0, 9]
        assert executor.restored.dropped["torn"] == 1
        assert executor.restored.dropped["orphan"] == 2


def test_a_header_of_another_file_does_not_count(open_tier, file, tmp_path):
    with open_tier() as executor:
        put(executor, chunk(executor, 0))
    foreign_header = file.read(file.header_offsets()[0], BLOCK)
    file.path.unlink()
    with open_tier() as executor:
        assert len(executor.restored) == 0
    file.write(BLOCK, foreign_header)

    with open_tier() as executor:
        assert len(executor.restored) == 0
        assert executor.restored.dropped["foreign"] == 1


def test_extents_are_used_again_after_a_restart(open_tier, engine):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1, 2]))
    with open_tier() as executor:
        fresh = path_of_chunks(executor, [20, 1], generation=3)
        put(executor, fresh, slots=slots_from(500, 128), sequence=20)

    with open_tier() as executor:
        assert sorted(offsets(executor)) == [0, 1, 20]
        fetch(executor, fresh)
        load(executor, fresh, slots_from(1000, 128))

    assert engine.token_bytes(slots_from(1000, 128)) == engine.token_bytes(slots_from(500, 128))


def test_inspection_changes_nothing_and_needs_no_lock(open_tier, file):
    with open_tier() as executor:
        put(executor, path_of_chunks(executor, [0, 1, 2]))
    file.flip(file.header_offsets()[2])
    before = file.path.read_bytes()

    steps = []
    found = DiskInspection(file.path)
    damaged = found.verify(lambda done, total: steps.append((done, total)))

    assert file.path.read_bytes() == before
    assert damaged == []
    assert steps == [(1, 2), (2, 2)]
    assert len(found.chunks) == 2
    assert found.chunks.dropped["torn"] == 1
    assert found.layout_digest == LAYOUT.digest(64)
    assert (found.rank, found.world_size, found.chunk_tokens) == (0, 1, 64)
    assert found.locked_by() is None
    with open_tier():
        assert inspect_folder(file.path.parent)[0].locked_by() == os.getpid()
