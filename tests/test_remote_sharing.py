"""How much two hosts find through a server of what one tree in one memory would have found.

The requests are those of agents: few system prompts, tasks below them, and turns that add a call, a
result or a question at a time, so that most prompts part inside a chunk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from redis_server import RedisServer, running_server
from remote_host import Host
from test_cache import CHUNK, NUM_SLOTS

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


def test_a_lookup_costs_the_same_however_many_prompts_go_on_from_there(server):
    """A prompt of 4,096 tokens in chunks of 64, below it thousands of continuations."""
    random_tokens = np.random.default_rng(1).integers(0, 50_000, 4096 + 40).astype(np.uint32)
    system, asked = random_tokens[:4096], random_tokens
    large = {"chunk_tokens": 64, "memory": {"size": "128MiB"}}
    with Host(server.unix_url, **large) as first, Host(server.unix_url, **large) as second:
        second.wait_for()
        store_in_parts(first, system)
        for seed in range(2000):
            rest = np.random.default_rng(seed).integers(0, 50_000, 40).astype(np.uint32)
            first.cache.store(np.concatenate([system, rest]), np.arange(4096 + 40) % NUM_SLOTS)
            if seed % 50 == 49:
                assert first.cache.settle()
        assert len(server.objects()) == 64 + 2000

        before = server.client.info("stats")
        prefetch = second.cache.prefetch(asked)
        second.cache.wait_for_completion(30.0)
        after = server.client.info("stats")

        assert prefetch is not None
        sent = after["total_net_input_bytes"] - before["total_net_input_bytes"]
        received = after["total_net_output_bytes"] - before["total_net_output_bytes"]
        assert sent + received <= 8192  # with the answer to the question itself


def store_in_parts(host: Host, tokens: np.ndarray) -> None:
    host.wait_for()
    host.cache.store(tokens, np.arange(len(tokens)) % NUM_SLOTS)
    assert host.cache.settle()
