"""Servers that fail while two hosts work: nothing is wrong, nothing fails, nothing waits.

    fault ╲ server    Redis   Mooncake's master   Mooncake's owner of objects
    killed              ×            ×                      ×
    stopped             ×            ×                      ×
    restarted, empty    ×            ×                      ×
    full                ×                                   ×
    wrong bytes         ×                                   ×
    bad network         ×      ×   (both at the far end)

In each: every request is answered with the KV that belongs there, no call on the scheduler's
thread waits, and when the fault is over servers are used again. `make soak` has each for half a
minute, and there no call may take longer than 20 ms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import mooncake_server
import pytest
from mooncake_server import MooncakeServer
from radixkv_sglang_cpu.call_timer import CALL_LIMIT_S, NO_WAIT_S
from redis_server import RedisServer
from remote_load import Load, load_host
from wire import Wire, why_not

from radixkv.tiers import mooncake_reads

pytestmark = pytest.mark.long

RECOVERY_LIMIT_S = 30.0
SHORT_S, LONG_S = 1.5, 30.0  # that a fault lasts
LONGEST_REQUEST_S = 4.0  # its prefetch's deadline is 1 s
MIB = 1 << 20


@pytest.fixture(autouse=True)
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """These chunks come from Mooncake as large ones do; what does not, as small ones do."""
    monkeypatch.setattr(mooncake_reads, "_WORTH_IT_BYTES", 0)


@dataclass(frozen=True, slots=True)
class Case:
    """A fault.

    Attributes:
        happens: What happens to the server; it lasts as long as this context.
        shows: A counter of the planners that shows that it was felt; empty for none.
        segment_bytes: What Mooncake's owner keeps.
    """

    happens: Callable[..., AbstractContextManager[None]]
    shows: str = ""
    segment_bytes: int = 512 * MIB


@contextmanager
def redis_killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def redis_stopped(server: RedisServer) -> Iterator[None]:
    server.stop()
    yield
    server.go_on()


@contextmanager
def redis_restarted(server: RedisServer) -> Iterator[None]:
    server.kill()
    server.start()
    yield


@contextmanager
def redis_full(server: RedisServer) -> Iterator[None]:
    server.client.config_set("maxmemory", server.client.info("memory")["used_memory"] + MIB)
    yield
    server.client.config_set("maxmemory", 0)


@contextmanager
def redis_evicts(server: RedisServer) -> Iterator[None]:
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    server.client.config_set("maxmemory", 48 * MIB)
    yield
    assert server.client.info("stats")["evicted_keys"] > 0
    server.client.config_set("maxmemory", 0)


@contextmanager
def redis_flipped(server: RedisServer) -> Iterator[None]:
    for number, name in enumerate(server.objects()):
        value = bytearray(server.client.get(name) or b"?")
        value[number * 7919 % len(value)] ^= 4
        server.client.set(name, bytes(value))
    yield


@contextmanager
def redis_swapped(server: RedisServer) -> Iterator[None]:
    names = sorted(server.objects())
    values = [server.client.get(name) or b"?" for name in names]
    for name, value in zip(names, values[1:] + values[:1], strict=True):
        server.client.set(name, value)
    yield


@contextmanager
def master_killed(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.kill(server.master)
    yield
    server.start_master()


@contextmanager
def master_stopped(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.stop(server.master)
    yield
    mooncake_server.go_on(server.master)


@contextmanager
def master_restarted(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.kill(server.master)
    server.start_master()
    yield


@contextmanager
def owner_killed(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.kill(server.owner)
    yield
    server.start_owner()


@contextmanager
def owner_stopped(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.stop(server.owner)
    yield
    mooncake_server.go_on(server.owner)


@contextmanager
def owner_restarted(server: MooncakeServer) -> Iterator[None]:
    mooncake_server.kill(server.owner)
    server.start_owner()
    yield


@contextmanager
def nothing(_server: MooncakeServer) -> Iterator[None]:
    yield


@contextmanager
def objects_flipped(server: MooncakeServer) -> Iterator[None]:
    with server.client() as client:
        for number, name in enumerate(server.names()):
            value = bytearray(client.get(name) or b"?")
            value[number * 7919 % len(value)] ^= 4
            client.upsert(name, bytes(value))
    yield


@contextmanager
def objects_swapped(server: MooncakeServer) -> Iterator[None]:
    with server.client() as client:
        for name, other in itertools.pairwise(server.names()):
            client.upsert(name, client.get(other) or b"?")
    yield


REDIS_CASES = {
    "killed": Case(redis_killed, "lookups_failed"),
    "stopped": Case(redis_stopped, "lookups_failed"),
    "restarted": Case(redis_restarted),
    "full": Case(redis_full, "puts_failed"),
    "evicts": Case(redis_evicts),
    "bits flipped": Case(redis_flipped, "gets_corrupt"),
    "objects swapped": Case(redis_swapped, "gets_corrupt"),
}
MOONCAKE_CASES = {
    "master killed": Case(master_killed, "lookups_failed"),
    "master stopped": Case(master_stopped, "lookups_failed"),
    "master restarted": Case(master_restarted),
    "owner killed": Case(owner_killed, "gets_failed"),
    "owner stopped": Case(owner_stopped, "prefetches_late"),
    "owner restarted": Case(owner_restarted),
    "full": Case(nothing, segment_bytes=64 * MIB),
    "bits flipped": Case(objects_flipped, "gets_corrupt"),
    "objects swapped": Case(objects_swapped, "gets_corrupt"),
}
BAD_NETWORKS = {
    "slow": {"bytes_per_s": 2e6},
    "far": {"delay_s": 0.2},
    "losing 5 %": {"loss": 0.05},
    "cut": {"loss": 1.0},
}


def check(
    url: str,
    happens: Callable[[], AbstractContextManager[None]],
    seconds: float,
    shows: str,
    record: Callable[[str, object], None],
) -> None:
    """Work before, during and after a fault."""
    with load_host(url) as first, load_host(url) as second:
        first.wait_for()
        second.wait_for()
        load = Load([first, second])
        load.run_until(lambda: load.tally.num_requests >= 60 and load.count("got") > 0, 30.0)
        felt_before = load.count(shows) if shows else 0
        with happens():
            load.run_for(seconds)
            if shows:
                load.run_until(lambda: load.count(shows) > felt_before, 10.0)
        used_before = load.count("got"), load.count("put")
        recovery_s = load.run_until(
            lambda: load.count("got") > used_before[0] and load.count("put") > used_before[1],
            RECOVERY_LIMIT_S,
        )
        tally, timer = load.tally, load.timer
        load.close()
        record("requests", tally.num_requests)
        record("longest_call_ms", round(timer.longest_s * 1e3, 2))
        record("longest_request_s", round(tally.longest_request_s, 2))
        record("recovery_s", round(recovery_s, 2))

        assert (tally.num_wrong, tally.num_failed, load.count("loads_failed")) == (0, 0, 0)
        limit_s = NO_WAIT_S if seconds <= SHORT_S else CALL_LIMIT_S
        assert timer.longest_s <= limit_s, timer.longest_name
        assert tally.longest_request_s <= LONGEST_REQUEST_S


def short_and_long(names: Iterable[str], often: Iterable[str]) -> pytest.MarkDecorator:
    """Each fault for a moment and for half a minute; on every change a few for a moment."""
    return pytest.mark.parametrize(
        ("name", "seconds"),
        [
            pytest.param(name, seconds, marks=() if is_often else pytest.mark.soak)
            for name, seconds in itertools.product(names, (SHORT_S, LONG_S))
            for is_often in [name in often and seconds == SHORT_S]
        ],
    )


@short_and_long(REDIS_CASES, ["killed", "stopped", "full", "objects swapped"])
def test_redis(name: str, seconds: float, tmp_path: Path, record_property) -> None:
    case = REDIS_CASES[name]
    server = RedisServer(tmp_path)
    try:
        url = f"{server.unix_url}?timeout=2s"
        check(url, lambda: case.happens(server), seconds, case.shows, record_property)
    finally:
        server.go_on()
        server.close()


@short_and_long(MOONCAKE_CASES, ["master killed", "owner stopped", "objects swapped"])
def test_mooncake(name: str, seconds: float, tmp_path: Path, record_property) -> None:
    case = MOONCAKE_CASES[name]
    server = MooncakeServer(tmp_path, segment_bytes=case.segment_bytes)
    try:
        url = f"{server.url}&timeout=2s"
        check(url, lambda: case.happens(server), seconds, case.shows, record_property)
    finally:
        server.close()


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@short_and_long(BAD_NETWORKS, ["losing 5 %"])
@pytest.mark.parametrize("kind", ["redis", "mooncake"])
def test_network(kind: str, name: str, seconds: float, tmp_path: Path, record_property) -> None:
    with Wire() as wire:

        @contextmanager
        def happens() -> Iterator[None]:
            wire.change(small_packets=True, **BAD_NETWORKS[name])
            yield
            wire.change()

        server = start(kind, tmp_path, wire)
        try:
            url = server.tcp_url + "?" if isinstance(server, RedisServer) else server.url + "&"
            check(f"{url}timeout=2s", happens, seconds, "", record_property)
        finally:
            server.close()


def start(kind: str, folder: Path, wire: Wire) -> RedisServer | MooncakeServer:
    if kind == "redis":
        return RedisServer(folder, wire=wire)
    return MooncakeServer(folder, segment_bytes=512 * MIB, wire=wire)
