"""Two caches that share nothing but a Redis server: what one stored the other finds, bit by bit."""

from __future__ import annotations

import dataclasses
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis_server import RedisServer, free_port, running_sentinel, running_server
from remote_host import TIMEOUT_S, Host
from remotes import CHUNK_TOKENS, LAYOUT, run, stored_chunks
from test_cache import CHUNK, Engine, prompt

from radixkv import Namespace
from radixkv.commands import CompletionStatus, Get, Put
from radixkv.config import CacheConfig
from radixkv.errors import TierError
from radixkv.remote_url import parse_remote
from radixkv.tiers.redis import inspect_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory) -> Iterator[RedisServer]:
    yield from running_server(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def server(shared_server) -> RedisServer:
    """Empty."""
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def small_server(tmp_path) -> Iterator[RedisServer]:
    yield from running_server(tmp_path, "--maxmemory", "20mb")


@pytest.mark.parametrize("scheme", ["unix_url", "tcp_url"])
def test_what_one_stored_the_other_finds(server, scheme):
    tokens = prompt(1, 6 * CHUNK + 5)
    with Host(getattr(server, scheme)) as first, Host(getattr(server, scheme)) as second:
        rows = first.keep(tokens)
        second.wait_for()

        found = second.find(tokens)

        assert np.array_equal(found, rows)
        assert second.counters.got == len(tokens)
        assert first.counters.put == len(tokens)


@pytest.mark.parametrize("scheme", ["unix_url", "tcp_url"])
def test_of_large_chunks_those_that_are_missing_are_put(server, scheme):
    num_chunks = 6
    tokens = np.arange(num_chunks * CHUNK_TOKENS, dtype=np.uint32)
    url = getattr(server, scheme)
    with stored_chunks(LAYOUT, CHUNK_TOKENS, num_chunks, url) as (executor, chunks):
        put, again = (Put(number, 0, chunks, tokens, bytes(16)) for number in (2, 3))
        run(executor, [put])
        names = sorted(server.objects())
        server.client.unlink(*names[:3], names[5])
        run(executor, [again])

        run(executor, [Get(4, 0, chunks, tokens, bytes(16))])  # each one is compared

        assert executor.stats().get.num_chunks == num_chunks


def test_of_puts_that_go_together_each_hears_what_became_of_its_own(small_server):
    """They queue while the server is held up, and it has room for the first few alone."""
    num_chunks = 7
    tokens = np.arange(CHUNK_TOKENS, dtype=np.uint32)
    url = small_server.unix_url
    with stored_chunks(LAYOUT, CHUNK_TOKENS, num_chunks, url) as (executor, chunks):
        small_server.client.client_pause(300)
        parents = [bytes([number]) * 16 for number in range(num_chunks)]
        for number, parent in enumerate(parents):
            executor.submit(Put(number, 0, chunks[number : number + 1], tokens, parent))
        ended = {}
        while len(ended) < num_chunks:
            executor.wait(TIMEOUT_S)
            ended |= {end.command_id: (end.num_ok, end.status) for end in executor.poll()}

        good = [number for number in range(num_chunks) if ended[number] == (1, 0)]
        assert good == list(range(len(good)))
        assert 2 <= len(good) < num_chunks
        assert {ended[number] for number in range(len(good), num_chunks)} == {
            (0, CompletionStatus.FULL)
        }
        for number in good:  # each one is compared
            run(executor, [Get(10 + number, 0, chunks[number:][:1], tokens, parents[number])])


def test_a_longer_prompt_finds_the_part_that_is_there(server):
    tokens = prompt(1, 3 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        rows = first.keep(tokens)
        second.wait_for()

        found = second.find(np.concatenate([tokens, prompt(2, 100)]))

        assert np.array_equal(found, rows)


@pytest.mark.parametrize("num_shared", [1, 2, 3, 5, 9, 10, 15, 16, 17, 33, 45])
def test_prompts_that_part_anywhere_share_what_they_share(server, num_shared):
    """The rungs of a chunk of 16 stand at 1, 4 and 10 tokens."""
    tokens = prompt(1, 3 * CHUNK)
    other = np.concatenate([tokens[:num_shared], prompt(2, 40)])
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        rows = first.keep(tokens)
        second.wait_for()

        found = second.find(other)

        assert np.array_equal(found, rows[:, :num_shared])


def test_of_many_continuations_one_that_goes_along_for_longest_is_found(server):
    system = prompt(1, 2 * CHUNK + 3)
    asked = np.concatenate([system, prompt(2, 30)])
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(asked[: len(system) + 9])
        for seed in range(3, 20):
            first.keep(np.concatenate([system, prompt(seed, 20)]))
        rows = first.find(asked[: len(system) + 9])
        second.wait_for()

        found = second.find(asked)

        assert found.shape[1] == len(system) + 9
        assert np.array_equal(found, rows)


def test_a_tail_is_found_by_the_conversation_that_goes_on(server):
    turn = prompt(1, 2 * CHUNK + 11)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        rows = first.keep(turn)
        second.wait_for()
        longer = np.concatenate([turn, prompt(2, 50)])

        assert np.array_equal(second.find(longer), rows)
        second.keep(longer)
        assert second.cache.match(longer).num_memory_tokens == len(longer)
        second.cache.planner.index.check_invariants()


def test_blocks_move_whole(server):
    engines = [Engine(num_kv=1, seed=1) for _ in range(2)]
    tokens = prompt(1, 3 * CHUNK)
    for engine in engines:
        engine.layout = dataclasses.replace(engine.layout, block_tokens=4)
    with (
        Host(server.unix_url, engine=engines[0]) as first,
        Host(server.unix_url, engine=engines[1]) as second,
    ):
        rows = first.keep(tokens)
        second.wait_for()
        found = second.find(np.concatenate([tokens[:43], prompt(2, 9)]))

        assert np.array_equal(found, rows[:, :40])


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 63, b"x" * 64, b"x" * 4000, "foreign"])
def test_a_wrong_rung_is_a_miss(server, value):
    tokens = prompt(1, CHUNK + 10)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        rows = first.keep(tokens)
        for name in set(server.client.scan_iter()) - server.objects():
            wrong = tokens[CHUNK:].tobytes() + b"abcd" if value == "foreign" else value
            server.client.set(name, wrong)
        second.wait_for()

        found = second.find(np.concatenate([tokens, prompt(2, 9)]))

        assert np.array_equal(found, rows[:, :CHUNK])


def test_a_rung_of_a_chunk_that_has_gone_is_a_miss(server):
    tokens = prompt(1, CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens)
        server.client.delete(*server.objects())
        second.wait_for()

        assert second.find(tokens).shape[1] == 0
        assert second.find(np.concatenate([tokens[:12], prompt(2, 9)])).shape[1] == 0


def test_what_is_here_already_is_not_brought_again(server):
    tokens = prompt(1, 6 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        second.keep(tokens[: 2 * CHUNK])
        rows = first.keep(tokens)

        found = second.find(tokens)

        assert np.array_equal(found[:, 2 * CHUNK :], rows[:, 2 * CHUNK :])
        assert second.counters.got == 4 * CHUNK


def test_what_the_server_has_is_not_written_again(server):
    tokens = prompt(1, 4 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens)
        before = server.client.info("stats")["total_net_input_bytes"]
        second.keep(tokens)

        assert second.counters.put == 4 * CHUNK
        assert server.client.info("stats")["total_net_input_bytes"] - before < 4096


def test_a_chunk_of_several_parts_comes_back_whole(server):
    engines = [Engine(row=5600, seed=1) for _ in range(2)]
    tokens = prompt(1, 512)
    large = {"chunk_tokens": 256, "memory": {"size": "128MiB"}}  # a chunk has 8.6 MB
    with (
        Host(server.unix_url, engine=engines[0], **large) as first,
        Host(server.unix_url, engine=engines[1], **large) as second,
    ):
        rows = first.keep(tokens)
        second.wait_for()
        assert len(server.objects()) == 2 * 3

        assert np.array_equal(second.find(tokens), rows)

        server.client.delete(*server.client.keys("*:2"))  # evicted, say
        second.cache.clear()
        assert second.find(tokens).shape[1] == 0


@pytest.mark.parametrize("num_bytes", [512 << 10, 2 << 20, 5 << 20])
def test_a_long_value_that_ends_early_or_goes_on_is_a_miss_and_is_written_anew(server, num_bytes):
    tokens = prompt(1, 128)
    large = {"chunk_tokens": 128}  # a chunk has 3 MiB
    with (
        Host(server.unix_url, engine=Engine(row=4096, seed=1), **large) as first,
        Host(server.unix_url, engine=Engine(row=4096, seed=1), **large) as second,
    ):
        rows = first.keep(tokens)
        second.wait_for()
        [key] = server.objects()
        value = server.client.get(key)
        server.client.set(key, value[:num_bytes].ljust(num_bytes, b"x"))

        assert second.find(tokens).shape[1] == 0
        assert second.counters.gets_corrupt == 128

        first.cache.clear()
        first.keep(tokens)
        assert np.array_equal(second.find(tokens), rows)


def test_tenants_share_nothing(server):
    tokens = prompt(1, 2 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens)
        second.wait_for()
        layout = second.engine.layout.digest(CHUNK)
        tenant = second.cache.namespace_id(Namespace("", layout, request_key="tenant"))

        assert second.find(tokens, tenant).shape[1] == 0
        assert second.counters.lookups == 1


def test_another_layout_finds_nothing(server):
    tokens = prompt(1, 2 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url, engine=Engine(row=41)) as second:
        first.keep(tokens)
        second.wait_for()

        assert second.find(tokens).shape[1] == 0


@pytest.mark.parametrize("place", [0, 5, 30, 50, 70, 90, 160, -1])
def test_a_flipped_bit_is_a_miss_and_is_written_anew(server, place):
    tokens = prompt(1, 3 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        rows = first.keep(tokens)
        second.wait_for()
        for key in server.objects():
            value = bytearray(server.client.get(key))
            value[place] ^= 4
            server.client.set(key, bytes(value))

        assert second.find(tokens).shape[1] == 0
        assert second.counters.gets_corrupt == 3 * CHUNK

        first.cache.clear()
        first.engine.arrays[0][:] = 7
        rows = first.keep(tokens)
        assert np.array_equal(second.find(tokens), rows)


def test_another_ones_object_is_a_miss(server):
    ours, theirs = prompt(1, CHUNK), prompt(2, CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(theirs)
        [foreign] = server.objects()
        value = server.client.get(foreign)
        first.keep(ours)
        [key] = server.objects() - {foreign}
        server.client.set(key, value)
        second.wait_for()

        assert second.find(ours).shape[1] == 0


@pytest.mark.parametrize("value", ["a list", b"", b"x", b"x" * 100_000])
def test_what_is_no_object_is_a_miss(server, value):
    tokens = prompt(1, 2 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens)
        for key in server.objects():
            server.client.delete(key)
            if value == "a list":
                server.client.rpush(key, "x")
            else:
                server.client.set(key, value)
        second.wait_for()

        assert second.find(tokens).shape[1] == 0
        assert second.cache.executor.remote_health()[0][0]


def test_what_goes_between_lookup_and_get_is_a_miss(server):
    tokens = prompt(1, 4 * CHUNK)
    with Host(server.unix_url) as first, Host(server.unix_url) as second:
        first.keep(tokens[: 2 * CHUNK])
        before = server.objects()
        rows = first.keep(tokens)
        second.wait_for()
        prefetch = second.cache.prefetch(tokens)
        second.cache.wait_for_completion(TIMEOUT_S)  # the answer: all of it is there
        server.client.delete(*(server.objects() - before))

        while not prefetch.done:
            second.cache.tick()

        assert second.cache.end_prefetch(prefetch) == 2 * CHUNK
        assert np.array_equal(second.find(tokens), rows[:, : 2 * CHUNK])
        assert second.counters.gets_failed == 2 * CHUNK
        assert second.counters.gets_corrupt == 0


def test_what_is_not_used_is_forgotten_and_what_is_used_is_kept(server):
    tokens = prompt(1, CHUNK)
    url = server.unix_url + "?ttl=60min"
    with Host(url) as first, Host(url) as second:
        first.keep(tokens)
        [key] = server.objects()
        assert 3500 < server.client.ttl(key) <= 3600
        server.client.expire(key, 100)

        second.keep(tokens)

        assert server.client.ttl(key) > 3500
        for name in server.client.keys("*"):
            server.client.expire(name, 100)
        with Host(url) as third:
            third.wait_for()
            third.find(tokens)

        assert min(map(server.client.ttl, server.client.keys("*"))) > 3500


def test_databases_are_apart(server):
    tokens = prompt(1, CHUNK)
    with Host(server.tcp_url + "/3") as first, Host(server.unix_url + "?db=3") as second:
        rows = first.keep(tokens)
        second.wait_for()

        assert server.objects() == set()
        assert np.array_equal(second.find(tokens), rows)


def test_a_second_server_has_what_the_first_lacks(server, tmp_path):
    other = RedisServer(tmp_path)
    tokens = prompt(1, 4 * CHUNK)
    try:
        with Host(other.unix_url) as first, Host(server.unix_url, other.unix_url) as second:
            rows = first.keep(tokens)
            for number in range(2):
                second.wait_for(server=number)

            assert np.array_equal(second.find(tokens), rows)
    finally:
        other.close()


def test_after_all_was_cleared_servers_are_left_alone(server):
    tokens = prompt(1, 2 * CHUNK)
    with Host(server.unix_url) as host:
        host.keep(tokens)

        host.cache.clear(disk=True)

        assert host.find(tokens).shape[1] == 0
        host.keep(tokens)
        assert host.counters.lookups == 0
        assert host.counters.puts_dropped == 2 * CHUNK


@pytest.fixture
def certificate(tmp_path) -> Path:
    """Of localhost, signed by itself; its key lies beside it."""
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    words += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


def test_an_encrypted_connection_trusts_whom_it_is_told_to(tmp_path, certificate):
    tokens = prompt(1, 4 * CHUNK)
    port = free_port()
    words = f"--tls-port {port} --tls-auth-clients no --tls-cert-file {certificate}"
    words += f" --tls-key-file {certificate.with_name('key.pem')}"
    for _ in running_server(tmp_path, *words.split()):
        url = f"rediss://localhost:{port}/?ca={certificate}"
        with Host(url) as first, Host(f"rediss://localhost:{port}/?verify=no") as second:
            rows = first.keep(tokens)
            second.wait_for()
            assert np.array_equal(second.find(tokens), rows)

        with Host(f"rediss://localhost:{port}") as stranger:
            assert "certificate" in stranger.wait_for(serves=False)
        with Host(f"rediss://127.0.0.1:{port}/?ca={certificate}") as renamed:
            assert "certificate" in renamed.wait_for(serves=False)


def test_a_server_with_a_password_is_served(tmp_path):
    tokens = prompt(1, CHUNK)
    for server in running_server(tmp_path, "--requirepass", "a secret/word"):
        with Host(f"redis://:a%20secret%2Fword@127.0.0.1:{server.port}") as host:
            host.keep(tokens)
            assert host.counters.put == CHUNK

        with Host(f"redis://:wrong@127.0.0.1:{server.port}") as host:
            assert "password" in host.wait_for(serves=False)
        with Host(server.tcp_url) as host:
            assert "NOAUTH" in host.wait_for(serves=False)


def test_a_cluster_is_refused_by_name(tmp_path):
    for server in running_server(tmp_path, "--cluster-enabled", "yes"):
        with Host(server.tcp_url) as host:
            assert "part of a cluster" in host.wait_for(serves=False)


def test_sentinels_say_where_the_server_is(server, tmp_path):
    tokens = prompt(1, 2 * CHUNK)
    watched = f"sentinel monitor cache 127.0.0.1 {server.port} 1"
    with (
        running_sentinel(tmp_path, "requirepass theirs") as ignorant,
        running_sentinel(tmp_path, "requirepass theirs", watched) as knowing,
    ):
        places = f"127.0.0.1:{free_port()},127.0.0.1:{ignorant}"
        url = f"redis+sentinel://{places},127.0.0.1:{knowing}/cache/?sentinel_password=theirs"
        with Host(url) as first, Host(server.unix_url) as second:
            rows = first.keep(tokens)
            second.wait_for()
            assert np.array_equal(second.find(tokens), rows)
        assert inspect_server(parse_remote(url)).version
        with pytest.raises(TierError, match="know no server of that name") as caught:
            inspect_server(parse_remote(url.replace("/cache/", "/others/")))
        assert "theirs" not in str(caught.value)

        with Host(url.replace("/cache/", "/others/")) as stranger:
            assert "knows no others" in stranger.wait_for(serves=False)
        with Host(url.replace("theirs", "mine")) as intruder:
            assert "password" in intruder.wait_for(serves=False)


def test_who_is_no_redis_is_cut_off(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            with Host(f"redis://127.0.0.1:{web.server_port}") as host:
                assert host.wait_for(serves=False)
        finally:
            web.shutdown()
            thread.join()


def test_settings_of_a_host_are_those_of_every_rank(server):
    config = CacheConfig.from_mapping({"remotes": [server.unix_url], "memory": {"size": "64MiB"}})

    assert config.for_rank(4).remotes == config.remotes
