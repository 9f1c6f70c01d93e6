"""Caches that share nothing but a Mooncake store, its master a real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from mooncake_server import MooncakeServer
from remote_host import Host
from remotes import SMALL_LAYOUT, run, stored_chunks
from test_cache import CHUNK, prompt

from radixkv.commands import Get, Put
from radixkv.errors import ConfigError, TierError
from radixkv.remote_url import parse_remote
from radixkv.tiers import mooncake

pytestmark = pytest.mark.long


@pytest.fixture
def server(tmp_path) -> Iterator[MooncakeServer]:
    server = MooncakeServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


def part_of(server: MooncakeServer, options: str = "") -> Host:
    """A host that keeps objects itself."""
    return Host(f"{server.url}&segment=64MiB{options}")


def test_what_one_stored_the_other_finds(server):
    tokens = prompt(1, 6 * CHUNK + 5)
    with part_of(server, "&replicas=2&pin=soft") as first, part_of(server) as second:
        second.wait_for()
        rows = first.keep(tokens)

        found = second.find(tokens)

        assert np.array_equal(found, rows[:, : 6 * CHUNK])
        assert first.counters.put == len(tokens)
        assert second.counters.got == 6 * CHUNK
        second.keep(tokens)  # its tail is new to it, and the store has it
        assert second.counters.puts_failed == 0


def test_what_is_spoilt_is_a_miss_and_is_put_anew(server):
    tokens = prompt(1, CHUNK)
    with part_of(server) as first, part_of(server) as second:
        rows = first.keep(tokens)
        second.wait_for()
        [name] = server.names()
        with server.client() as client:
            spoil(client, name, 300)

        assert second.find(tokens).shape[1] == 0
        assert second.counters.gets_corrupt == CHUNK
        first.cache.clear()
        rows = first.keep(tokens)
        assert np.array_equal(second.find(tokens), rows)


def test_a_command_may_have_more_chunks_than_the_client_sends_at_once(tmp_path):
    num_chunks = 4096
    tokens = prompt(1, num_chunks * CHUNK)
    server = MooncakeServer(tmp_path, segment_bytes=64 << 20)  # elsewhere: they go by TCP
    try:
        with stored_chunks(SMALL_LAYOUT, CHUNK, num_chunks, server.url) as (executor, chunks):
            run(executor, [Put(2, 0, chunks, tokens, bytes(16))])  # and all went well
            run(executor, [Get(3, 0, chunks, tokens, bytes(16))])

            assert executor.stats().get.num_chunks == num_chunks
    finally:
        server.close()


def spoil(store, name: str, place: int) -> None:
    value = bytearray(store.get(name))
    value[place] ^= 1
    assert store.upsert(name, bytes(value)) == 0


def test_a_url_says_what_the_store_is_asked_for():
    url = parse_remote("mooncake://host/?segment=4GiB&protocol=rdma&devices=mlx5_0&replicas=2")

    assert (url.master, url.segment_bytes, url.protocol) == ("host:50051", 4 << 30, "rdma")
    assert (url.num_replicas, url.metadata, url.soft_pin) == (2, "P2PHANDSHAKE", False)
    with pytest.raises(ConfigError, match="segment: expected a size"):
        parse_remote("mooncake://host/?segment=much")


def test_rdma_is_not_replaced_by_something_slower(tmp_path, monkeypatch):
    monkeypatch.setattr(mooncake, "_RDMA_DEVICES", tmp_path)
    url = parse_remote("mooncake://host/?protocol=rdma&devices=mlx5_0,mlx5_1")

    assert "no RDMA device mlx5_0, mlx5_1" in mooncake.missing_device(url)
    with Host("mooncake://127.0.0.1:1/?protocol=rdma") as host:
        assert host.wait_for(serves=False) == "protocol=rdma: this host has no RDMA device"
    (tmp_path / "mlx5_0").mkdir()
    assert "no RDMA device mlx5_1" in mooncake.missing_device(url)
    (tmp_path / "mlx5_1").mkdir()
    assert mooncake.missing_device(url) is None


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mooncake.store", None)

    with pytest.raises(TierError, match="libibverbs1"):
        mooncake.import_store()
