"""A cache opens and closes at once whatever its servers do, and uses those that come later."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis
import wire
from radixkv_sglang_cpu.call_timer import CALL_LIMIT_S, NO_WAIT_S
from redis_server import RedisServer, free_port, running_sentinel, running_server
from remote_host import Host
from remote_load import Load, load_host
from test_cache import CHUNK, prompt

pytestmark = pytest.mark.long

LONGEST_S = 15.0  # on a busy machine
PATIENCE = "timeout=60s"  # so long would take whatever waits for the server


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    yield from running_server(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:{port}?" + PATIENCE,
        "unix://{folder}/none?" + PATIENCE,
        "redis://192.0.2.1:6379?" + PATIENCE,  # an address that nobody has
        "mooncake://127.0.0.1:{port}?" + PATIENCE,
    ],
)
@pytest.mark.parametrize("limit_s", [NO_WAIT_S, pytest.param(CALL_LIMIT_S, marks=pytest.mark.soak)])
def test_a_server_that_is_dead_at_the_start_delays_nothing(url, limit_s, tmp_path):
    begun = time.monotonic()
    with load_host(url.format(port=free_port(), folder=tmp_path), deadline="60s") as host:
        opened_s = time.monotonic() - begun
        load = Load([host])
        load.run_until(lambda: load.tally.num_requests >= 20, LONGEST_S)
        load.close()
        closing = time.monotonic()

    assert time.monotonic() - closing < LONGEST_S
    assert opened_s < LONGEST_S
    assert load.tally.num_failed == load.tally.num_wrong == 0
    assert load.timer.longest_s < limit_s
    assert load.tally.longest_request_s < LONGEST_S


def test_a_server_that_comes_later_is_used(server):
    server.kill()
    with Host(server.unix_url) as host:
        host.wait_for(serves=False)

        server.start()

        host.keep(prompt(1, CHUNK))
        assert host.counters.put == CHUNK


@pytest.mark.soak
def test_after_a_failover_the_new_server_is_used(server, tmp_path):
    place = f"127.0.0.1 {server.port}"
    lines = [f"sentinel monitor cache {place} 1", "sentinel down-after-milliseconds cache 300"]
    folder = tmp_path / "replica"
    folder.mkdir()
    for replica in running_server(folder, "--replicaof", *place.split()):
        with (
            running_sentinel(tmp_path, *lines) as port,
            Host(f"redis+sentinel://127.0.0.1:{port}/cache") as host,
        ):
            host.keep(prompt(1, CHUNK))
            with redis.Redis(port=port) as sentinel:
                while not sentinel.sentinel_slaves("cache"):
                    os.sched_yield()

            server.kill()

            host.wait_for(serves=False)
            host.keep(prompt(2, CHUNK))
            assert host.counters.put == 2 * CHUNK
            assert replica.objects()


def test_a_cache_closes_while_its_server_hangs(server):
    with Host(f"{server.unix_url}?{PATIENCE}") as host:
        host.keep(prompt(1, CHUNK))
        server.stop()
        prefetch = host.cache.prefetch(prompt(2, CHUNK))
        begun = time.monotonic()
        host.cache.executor.close(drain_s=0)

    assert prefetch is not None
    assert time.monotonic() - begun < LONGEST_S
    server.go_on()


# In a namespace of its own, where the only name server takes questions and never answers.
_SILENT_NAMES = """
import socket, subprocess, sys, time
folder = sys.argv[1]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open(folder + "/resolv.conf", "w") as file:
    file.write("nameserver 127.0.0.1\\noptions timeout:30 attempts:2\\n")
subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
silent = socket.socket(type=socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
from remote_host import Host
with Host("redis://somewhere.example?timeout=300ms") as host:
    silent.recv(512)
    reason = host.wait_for(serves=False)
    assert reason == "no answer in time", reason
    begun = time.monotonic()
print(time.monotonic() - begun)
"""


@pytest.mark.skipif(wire.why_not() is not None, reason=str(wire.why_not()))
def test_a_name_server_that_is_silent_delays_nothing(tmp_path):
    program = [sys.executable, "-c", _SILENT_NAMES, str(tmp_path)]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        ["unshare", "--net", "--mount", *program],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < LONGEST_S
