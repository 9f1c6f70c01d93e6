"""Caches that share nothing but a Mooncake store, its master a real one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis_server import free_port
from test_cache import CHUNK, prompt
from test_remote import Host
from test_remote_faults import LONGEST_CALL_S, Timed, serve, wait_until

from radixkv.errors import ConfigError, TierError
from radixkv.remote_url import parse_remote
from radixkv.tiers import mooncake

pytestmark = pytest.mark.long


class Master:
    """Knows where objects are; the clients keep them."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "master.log"
        self.start()

    @property
    def url(self) -> str:
        return f"mooncake://127.0.0.1:{self.port}/?segment=64MiB"

    def start(self) -> None:
        package = Path(mooncake.import_store().__file__).parent
        words = [
            str(package / "mooncake_master"),
            "--rpc_address=127.0.0.1",
            f"--rpc_port={self.port}",
        ]
        words += ["--metrics_host=127.0.0.1", f"--metrics_port={free_port()}", "--logtostderr"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def master(tmp_path) -> Iterator[Master]:
    master = Master(tmp_path)
    try:
        yield master
    finally:
        master.kill()


def test_what_one_stored_the_other_finds(master):
    tokens = prompt(1, 6 * CHUNK + 5)
    with Host(master.url) as first, Host(master.url) as second:
        rows = first.keep(tokens)
        second.wait_for()

        found = second.find(tokens)

        assert np.array_equal(found, rows[:, : 6 * CHUNK])
        assert first.counters.put == len(tokens)
        assert second.counters.got == 6 * CHUNK
        second.keep(tokens)  # its tail is new to it, and the store has it
        assert second.counters.puts_failed == 0


def test_what_is_spoilt_or_anothers_is_a_miss_and_is_put_anew(master):
    tokens, other = prompt(1, CHUNK), prompt(2, CHUNK)
    with Host(master.url) as first, Host(master.url) as second:
        rows = first.keep(tokens)
        second.wait_for()
        store = second.cache.executor._remotes._stores[0]._store
        native = second.cache.executor._native
        with second.cache.acquire(other) as nothing:
            root = second.cache.planner.index.prefix_key(
                nothing, second.cache.namespace_id(second.cache.namespace)
            )
        spoil(store, native.chunk_names(root, tokens)[0], 300)

        assert second.find(tokens).shape[1] == 0
        assert second.counters.gets_corrupt == CHUNK
        first.cache.clear()
        rows = first.keep(tokens)
        assert np.array_equal(second.find(tokens), rows)


def spoil(store, name: str, place: int) -> None:
    value = bytearray(store.get(name))
    value[place] ^= 1
    assert store.upsert(name, bytes(value)) == 0


def test_a_master_that_is_dead_at_the_start_delays_nothing_and_is_used_when_it_comes(tmp_path):
    timed = Timed()
    begun = time.monotonic()
    with Host(f"mooncake://127.0.0.1:{free_port()}") as host:
        assert time.monotonic() - begun < LONGEST_CALL_S
        assert serve(host, prompt(1, 50), timed) == 0
        assert serve(host, prompt(1, 50), timed) == 50
    assert timed.longest_s < LONGEST_CALL_S


def test_a_master_that_dies_is_a_miss_and_is_used_again_when_it_is_back(master):
    timed = Timed()
    tokens = prompt(1, 4 * CHUNK)
    with Host(master.url) as first, Host(master.url) as second:
        first.keep(tokens)
        second.wait_for()

        master.kill()

        assert serve(second, tokens, timed) == 0
        second.wait_for(serves=False)
        assert serve(second, prompt(2, 40), timed) == 0
        master.start()
        first.wait_for()
        second.wait_for()
        wait_until(first.cache.clear, lambda: serve(first, tokens, timed) == 0)
    assert timed.longest_s < LONGEST_CALL_S


def test_a_master_that_hangs_is_waited_for_by_nobody(master):
    timed = Timed()
    tokens = prompt(1, 4 * CHUNK)
    with Host(master.url + "&timeout=500ms") as first, Host(master.url) as second:
        first.keep(tokens)
        second.wait_for()

        master.stop()

        first.cache.clear()
        begun = time.monotonic()
        assert serve(first, tokens, timed) == 0
        assert first.wait_for(serves=False) == "a call does not return"
        assert serve(first, prompt(2, 40), timed) == 0
        assert time.monotonic() - begun < 5.0
        master.go_on()
        first.wait_for()
    assert timed.longest_s < LONGEST_CALL_S


def test_a_url_says_what_the_store_is_asked_for():
    url = parse_remote("mooncake://host/?segment=4GiB&protocol=rdma&devices=mlx5_0&replicas=2")

    assert (url.master, url.segment_bytes, url.protocol) == ("host:50051", 4 << 30, "rdma")
    assert (url.num_replicas, url.metadata, url.soft_pin) == (2, "P2PHANDSHAKE", False)
    with pytest.raises(ConfigError, match="segment: expected a size"):
        parse_remote("mooncake://host/?segment=much")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mooncake.store", None)

    with pytest.raises(TierError, match="libibverbs1"):
        mooncake.import_store()
