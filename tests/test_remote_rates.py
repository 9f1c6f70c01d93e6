"""A load that costs more than computing is not begun; both are measured, on a real wire."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from redis_server import RedisServer
from remote_host import Host
from remote_load import kv_of, load_host
from test_cache import prompt
from wire import Wire, why_not

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

# Tokens: their KV is 1.6 and 33 MB/s, so far from the wire that no busy machine confuses them.
SLOWLY, QUICKLY = 50, 1000
FIRST, OTHERS = prompt(1, 32), [prompt(seed, 160) for seed in range(2, 7)]


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture
def server(wire, tmp_path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, wire=wire)
    try:
        yield server
    finally:
        server.close()


def compute(host: Host, tokens_per_s: int) -> None:
    """What the cache hears while an engine computes other prompts."""
    for _ in range(3):
        host.cache.note_computed(tokens_per_s // 10)
        host.cache.wait_for_completion(0.1)  # nothing is under way: time passes
        host.cache.tick()


@pytest.mark.parametrize(
    ("bytes_per_s", "tokens_per_s", "is_worth_while"),
    [(1.25e9, SLOWLY, True), (1.5e6, QUICKLY, False)],
    ids=["fast", "slow"],
)
def test_what_is_quicker_is_done(wire, server, bytes_per_s, tokens_per_s, is_worth_while):
    with load_host(server.unix_url) as first, load_host(f"{server.url}?timeout=5s") as second:
        first.wait_for()
        second.wait_for()
        for tokens in (FIRST, *OTHERS):
            for array, rows in zip(first.engine.arrays, kv_of(tokens), strict=True):
                array[: len(tokens)] = rows
            assert first.cache.store(tokens, np.arange(len(tokens))).wait()
            assert first.cache.settle()
        wire.change(bytes_per_s=bytes_per_s, delay_s=0.0005)
        assert second.cache.fetch(FIRST) == len(FIRST)  # nothing is known yet: it is tried
        compute(second, tokens_per_s)

        found = [second.cache.fetch(tokens) for tokens in OTHERS]

        assert found == [160 if is_worth_while else 0] * len(OTHERS)
        assert second.counters.prefetches_dear == (0 if is_worth_while else len(OTHERS))
