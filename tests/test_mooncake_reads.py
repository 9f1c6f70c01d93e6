"""Reads that sleep while bytes come: by an engine that is told what happens, and by Mooncake's."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mooncake_server import MooncakeServer
from remotes import CHUNK_TOKENS, LAYOUT, run, stored_chunks

from radixkv.commands import Get, Put
from radixkv.remote_url import parse_remote
from radixkv.tiers import mooncake_reads
from radixkv.tiers.mooncake_reads import MooncakeReader, start_engine

MIB = 1 << 20
HEAD_BYTES, PAYLOAD_BYTES = 100, 4 * MIB
OWN, OTHER = "here:1", "there:2"


class Engine:
    """Copies within this process; a transfer ends when it is asked for the second time."""

    def __init__(self, fails: set[int] | None = None, refuses: set[int] | None = None) -> None:
        self.fails = fails or set()  # numbers of transfers, from 1
        self.refuses = refuses or set()
        self.num_begun = 0
        self.most_under_way = 0
        self.under_way: dict[int, tuple[int, int, int]] = {}
        self._asked: set[int] = set()

    def get_rpc_port(self) -> int:
        return 1

    def batch_transfer_async_read(
        self, process: str, targets: list[int], sources: list[int], sizes: list[int]
    ) -> int:
        assert process == OTHER
        self.num_begun += 1
        if self.num_begun in self.refuses:
            return 0
        [self.under_way[self.num_begun]] = zip(targets, sources, sizes, strict=True)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        return self.num_begun

    def transfer_check_status(self, transfer: int) -> int:
        if transfer not in self._asked:
            self._asked.add(transfer)
            return 0
        target, source, num_bytes = self.under_way.pop(transfer)
        if transfer in self.fails:
            return -1
        ctypes.memmove(target, source, num_bytes)
        return 1


class Objects:
    """Some that a store knows, and buffers to read them into."""

    def __init__(self, count: int, payload_bytes: int = PAYLOAD_BYTES) -> None:
        self.names = [f"object {number}" for number in range(count)]
        rng = np.random.default_rng(0)
        self.kept = rng.integers(0, 256, (count, HEAD_BYTES + payload_bytes), np.uint8)
        self._heads = np.zeros((count, HEAD_BYTES), np.uint8)
        self._payloads = np.zeros((count, payload_bytes), np.uint8)
        self.addresses = [
            [head.ctypes.data, payload.ctypes.data]
            for head, payload in zip(self._heads, self._payloads, strict=True)
        ]
        self.sizes = [[HEAD_BYTES, payload_bytes]] * count
        self.replicas = {
            name: [replica(kept.ctypes.data, kept.nbytes)]
            for name, kept in zip(self.names, self.kept, strict=True)
        }

    def batch_get_replica_desc(self, names: list[str]) -> dict[str, list[Any]]:
        return {name: self.replicas[name] for name in names if name in self.replicas}

    def read_by(self, engine: Engine) -> list[int]:
        reader = MooncakeReader(self, engine, "here")
        return list(reader.read(self.names, self.addresses, self.sizes))

    def come(self, count: int) -> bool:
        both = np.concatenate([self._heads, self._payloads], axis=1)
        return np.array_equal(both[:count], self.kept[:count])


def replica(
    address: int,
    num_bytes: int,
    process: str = OTHER,
    status: str = "COMPLETE",
    in_memory: bool = True,
) -> Any:
    buffer = SimpleNamespace(transport_endpoint=process, buffer_address=address, size=num_bytes)
    return SimpleNamespace(
        is_memory_replica=lambda: in_memory,
        status=SimpleNamespace(name=status),
        get_memory_descriptor=lambda: SimpleNamespace(buffer_descriptor=buffer),
    )


def test_objects_come_one_after_the_other_a_few_under_way():
    objects, engine = Objects(5), Engine()

    assert objects.read_by(engine) == [1, 2, 3, 4, 5]

    assert objects.come(5)
    assert engine.most_under_way == 4  # head and payload of two, which are 8 MiB


@pytest.mark.parametrize("number", [3, 4])
def test_a_transfer_that_fails_is_the_last(number):
    for engine in (Engine(fails={number}), Engine(refuses={number})):
        objects = Objects(4, payload_bytes=2 * MIB)

        assert objects.read_by(engine) == [1]

        assert objects.come(1)
        assert not engine.under_way


def test_nothing_is_under_way_once_the_caller_stops():
    objects, engine = Objects(8, payload_bytes=2 * MIB), Engine()
    reader = MooncakeReader(objects, engine, "here")

    for num_come in reader.read(objects.names, objects.addresses, objects.sizes):
        assert num_come == 1
        assert engine.under_way
        break

    assert not engine.under_way


@pytest.mark.parametrize(
    "elsewhere", [{"process": OWN}, {"status": "PROCESSING"}, {"in_memory": False}]
)
def test_what_is_not_whole_in_anothers_memory_is_left_to_the_store(elsewhere):
    objects = Objects(3)
    kept = objects.kept[1]
    objects.replicas["object 1"] = [replica(kept.ctypes.data, kept.nbytes, **elsewhere)]
    engine = Engine()

    assert objects.read_by(engine) == [1]
    assert engine.num_begun == 2

    objects.replicas["object 1"].append(replica(kept.ctypes.data, kept.nbytes))
    assert objects.read_by(Engine()) == [1, 2, 3]


def test_what_is_missing_or_of_another_length_is_left_to_the_store():
    objects = Objects(2)
    kept = objects.kept[0]
    objects.replicas["object 0"] = [replica(kept.ctypes.data, kept.nbytes + 1)]
    assert objects.read_by(Engine()) == []

    del objects.replicas["object 0"]
    assert objects.read_by(Engine()) == []


def test_what_is_small_is_left_to_the_store():
    objects, engine = Objects(2, payload_bytes=MIB // 2), Engine()

    assert objects.read_by(engine) == []
    assert engine.num_begun == 0


@pytest.mark.parametrize("options", ["protocol=rdma", "metadata=http://host:8080/metadata"])
def test_no_engine_of_our_own_where_the_stores_will_do(options):
    assert start_engine(parse_remote(f"mooncake://host/?{options}")) is None


@pytest.mark.long
def test_large_chunks_come_this_way_and_are_compared(tmp_path, monkeypatch):
    read, come = MooncakeReader.read, []

    def watched(*words):
        for num_come in read(*words):
            come.append(num_come)
            yield num_come

    monkeypatch.setattr(mooncake_reads.MooncakeReader, "read", watched)
    server = MooncakeServer(tmp_path, segment_bytes=64 * MIB)
    try:
        with stored_chunks(LAYOUT, CHUNK_TOKENS, 3, server.url) as (executor, chunks):
            tokens = np.arange(3 * CHUNK_TOKENS, dtype=np.uint32)
            run(executor, [Put(2, 0, chunks, tokens, bytes(16))])
            run(executor, [Get(3, 0, chunks, tokens, bytes(16))])

            assert come == [1, 2, 3]
            assert executor.stats().get.num_chunks == 3
    finally:
        server.close()
