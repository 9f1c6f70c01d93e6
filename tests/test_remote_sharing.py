"""How much two hosts find through a server of what one tree in one memory would have found.

The requests are those of agents: few system prompts, tasks below them, and turns that add a call, a
result or a question at a time, so that most prompts part inside a chunk.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis_server import RedisServer, running_server
from relay import Relay, Traffic
from remote_host import Host
from test_cache import CHUNK, NUM_SLOTS, Engine

from radixkv.index import RadixIndex

pytestmark = pytest.mark.long

NUM_TASKS = 60


@pytest.fixture
def server(tmp_path) -> Iterator[RedisServer]:
    yield from running_server(tmp_path)


def agents(chance: random.Random) -> Iterator[list[int]]:
    """Prompts in the order in which they come: the turns of several tasks at a time."""
    systems = [draw(chance, length) for length in (75, 41, 118)]
    running: list[list[int]] = []
    for _ in range(NUM_TASKS):
        task = chance.choice(systems) + chance.choice(systems)[:20] + draw(chance, 15)
        running.append(task)
        for _ in range(5):
            turn = chance.randrange(len(running))
            yield running[turn]
            running[turn] = running[turn] + draw(chance, chance.randrange(5, 40))
            if len(running[turn]) > NUM_SLOTS - 60:
                del running[turn]
                running.append(chance.choice(systems) + draw(chance, 15))


def draw(chance: random.Random, length: int) -> list[int]:
    return chance.choices(range(1000), k=length)


@pytest.mark.parametrize("seed", range(2))
def test_two_hosts_find_what_one_tree_would_find(server, seed):
    chance = random.Random(seed)
    tree = RadixIndex(CHUNK)
    num_found = num_in_tree = num_in_chunks = 0
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.wait_for()
        second.wait_for()
        for number, prompt in enumerate(agents(chance)):
            host = (first, second)[number % 2]
            tokens = np.array(prompt, np.uint32)
            in_tree = tree.match(tokens, limit=len(tokens) - 1).num_tokens
            found = host.cache.fetch(tokens)
            num_found += min(found, len(tokens) - 1)
            num_in_tree += in_tree
            num_in_chunks += in_tree // CHUNK * CHUNK
            host.keep(tokens)
            tree.insert(tokens)
        counters = [host.counters for host in (first, second)]

    assert num_found >= 0.997 * num_in_tree
    assert num_in_chunks < 0.97 * num_in_tree  # it takes parts of chunks
    assert sum(counter.gets_failed for counter in counters) == 0


@pytest.mark.parametrize(
    "stages", [(2_000,), pytest.param((1_000, 10_000, 100_000), marks=pytest.mark.soak)]
)
def test_a_lookup_costs_the_same_however_many_prompts_go_on_from_there(
    stages, server, tmp_path, record_property
):
    """A prompt of 4,096 tokens in chunks of 64, below it thousands of continuations."""
    random_tokens = np.random.default_rng(1).integers(0, 50_000, 4096 + 40).astype(np.uint32)
    with small_host(server.unix_url) as host:
        store(host, random_tokens[:4096])
        assert host.cache.settle()
        num_stored = 0
        for stage in stages:
            store_continuations(host, random_tokens[:4096], num_stored, stage - 1)
            other_rest = np.arange(20, dtype=np.uint32) + stage
            store(host, np.concatenate([random_tokens[: 4096 + 20], other_rest]))
            assert host.cache.settle()
            num_stored = stage
            assert len(server.objects()) == 64 + stage
            traffic = traffic_of_lookup(server, tmp_path, random_tokens)
            record_property(f"traffic_at_{stage}", dataclasses.asdict(traffic))

            assert traffic.num_round_trips <= 2
            assert traffic.sent_bytes + traffic.received_bytes <= 8192


def small_host(url: str) -> Host:
    """Little KV, so that a server keeps much."""
    settings = {"chunk_tokens": 64, "memory": {"size": "64MiB"}}
    return Host(url, engine=Engine(num_layers=1, row=16), **settings)


def store_continuations(host: Host, system: np.ndarray, first: int, last: int) -> None:
    for seed in range(first, last):
        rest = np.random.default_rng(seed).integers(0, 50_000, 40).astype(np.uint32)
        store(host, np.concatenate([system, rest]))
        if seed % 50 == 49:
            assert host.cache.settle()


def store(host: Host, tokens: np.ndarray) -> None:
    host.wait_for()
    host.cache.store(tokens, np.arange(len(tokens)) % NUM_SLOTS)


def traffic_of_lookup(server: RedisServer, folder: Path, tokens: np.ndarray) -> Traffic:
    """Of a host that has nothing and asks for the first time."""
    relay = Relay(server.socket, folder)
    with relay.running(), small_host(relay.url) as host:
        host.wait_for()
        before = dataclasses.replace(relay.traffic)
        prefetch = host.cache.prefetch(tokens)
        host.cache.wait_for_completion(30.0)
        after = dataclasses.replace(relay.traffic)
        assert prefetch is not None
        host.cache.tick()
        assert prefetch.remote is not None
        assert prefetch.remote.end == 4096 + 20
    return Traffic(
        after.sent_bytes - before.sent_bytes,
        after.received_bytes - before.received_bytes,
        after.num_round_trips - before.num_round_trips,
    )
