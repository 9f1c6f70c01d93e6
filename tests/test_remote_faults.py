"""A remote server that is dead, dies, hangs or is full: nothing fails, nothing waits for it.

How long a call takes is bounded far below the server's timeout of a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
from redis_server import RedisServer, free_port, running_server
from test_cache import CHUNK, prompt, slots
from test_remote import Host

pytestmark = pytest.mark.long

LONGEST_CALL_S = 0.3  # on a busy machine; what waited for the server would take a second

Value = TypeVar("Value")


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    yield from running_server(tmp_path)


class Timed:
    """Makes calls and keeps the longest time that one took."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    def __call__(self, call: Callable[[], Value]) -> Value:
        begun = time.monotonic()
        try:
            return call()
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - begun)


def serve(host: Host, tokens: np.ndarray, timed: Timed) -> int:
    """What an engine does for a request; gives the tokens that were in memory for it."""
    prefetch = timed(lambda: host.cache.prefetch(tokens))
    while prefetch is not None and not prefetch.done:
        host.cache.wait_for_completion(0.05)
        timed(host.cache.tick)
    if prefetch is not None:
        timed(lambda: host.cache.end_prefetch(prefetch))
    found = host.cache.match(tokens).num_memory_tokens
    timed(lambda: host.cache.store(tokens, slots(3, len(tokens))))
    assert host.cache.settle()
    return found


def test_a_server_that_is_dead_at_the_start_delays_nothing(tmp_path):
    timed = Timed()
    begun = time.monotonic()
    with (
        Host(f"redis://127.0.0.1:{free_port()}", f"unix://{tmp_path}/none") as host,
        Host("redis://192.0.2.1:6379") as unreachable,  # an address that nobody has
    ):
        opened_s = time.monotonic() - begun
        assert "refused" in host.wait_for(serves=False)

        assert serve(host, prompt(1, 50), timed) == 0
        assert serve(host, prompt(1, 50), timed) == 50
        assert serve(unreachable, prompt(1, 50), timed) == 0

        closing = time.monotonic()
    assert time.monotonic() - closing < LONGEST_CALL_S
    assert opened_s < LONGEST_CALL_S
    assert timed.longest_s < LONGEST_CALL_S


def test_a_server_that_comes_later_is_used(server):
    server.kill()
    with Host(server.unix_url) as host:
        host.wait_for(serves=False)

        server.start()

        host.keep(prompt(1, CHUNK))
        assert host.counters.put == CHUNK


def test_a_server_that_dies_is_a_miss_and_is_used_again_when_it_is_back(server):
    timed = Timed()
    tokens = prompt(1, 4 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens)
        second.wait_for()

        server.kill()

        assert serve(second, tokens, timed) == 0
        second.cache.clear()
        server.start()  # empty
        second.wait_for()
        assert serve(second, tokens, timed) == 0
        first.cache.clear()
        first.wait_for()
        wait_until(lambda: serve_anew(first, tokens, timed), lambda: len(server.objects()) == 4)
        second.cache.clear()
        wait_until(lambda: None, lambda: serve(second, tokens, timed) == len(tokens))
    assert timed.longest_s < LONGEST_CALL_S


def serve_anew(host: Host, tokens: np.ndarray, timed: Timed) -> None:
    host.cache.clear()
    serve(host, tokens, timed)


def wait_until(act: Callable[[], None], is_so: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        act()


def test_a_server_that_hangs_is_cut_off_and_used_again_when_it_goes_on(server):
    timed = Timed()
    tokens = prompt(1, 4 * CHUNK)
    url = server.unix_url + "?timeout=500ms"
    with Host(url) as first, Host(url) as second:
        first.keep(tokens)
        second.wait_for()

        server.stop()

        begun = time.monotonic()
        assert serve(second, tokens, timed) == 0
        assert time.monotonic() - begun < 5.0
        second.wait_for(serves=False)
        begun = time.monotonic()
        assert serve(second, prompt(2, 50), timed) == 0
        assert time.monotonic() - begun < LONGEST_CALL_S  # nobody waits for it any more
        server.go_on()
        second.wait_for()
        second.cache.clear()
        wait_until(second.cache.clear, lambda: serve(second, tokens, timed) == len(tokens))
    assert timed.longest_s < LONGEST_CALL_S


def test_a_cache_closes_while_its_server_hangs(server):
    with Host(server.unix_url + "?timeout=60s") as host:
        host.keep(prompt(1, CHUNK))
        server.stop()
        prefetch = host.cache.prefetch(prompt(2, CHUNK))
        begun = time.monotonic()
        host.cache.executor.close(drain_s=0)

    assert prefetch is not None
    assert time.monotonic() - begun < LONGEST_CALL_S
    server.go_on()


def test_a_full_server_is_left_alone_and_still_read(tmp_path):
    timed = Timed()
    for server in running_server(tmp_path, "--maxmemory", "3mb"):
        with Host(server.unix_url) as first, Host(server.unix_url) as second:
            kept = first.keep(prompt(1, 4 * CHUNK))
            second.wait_for()
            for seed in range(2, 200):
                serve(first, prompt(seed, 6 * CHUNK), timed)
                if first.counters.puts_failed:
                    break

            assert first.counters.puts_failed
            serve(first, prompt(999, 6 * CHUNK), timed)
            assert first.counters.puts_dropped
            assert np.array_equal(second.find(prompt(1, 4 * CHUNK)), kept)
    assert timed.longest_s < LONGEST_CALL_S


def test_a_server_that_evicts_is_a_miss(tmp_path):
    policy = ("--maxmemory-policy", "allkeys-lru", "--maxmemory-samples", "64")
    timed = Timed()
    for server in running_server(tmp_path, "--maxmemory", "3mb", *policy):
        with Host(server.unix_url) as first, Host(server.unix_url) as second:
            first.wait_for()
            second.wait_for()
            for seed in range(300):
                serve(first, prompt(seed, 6 * CHUNK), timed)

            assert first.counters.puts_failed == 0
            assert serve(second, prompt(0, 6 * CHUNK), timed) < 6 * CHUNK
            serve(second, prompt(299, 6 * CHUNK), timed)  # right, whatever part of it is left
