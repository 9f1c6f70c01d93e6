"""Remote servers as the configuration names them, and what the doctor says of them."""

from __future__ import annotations

import builtins

import pytest
from redis_server import free_port, running_server

from radixkv.cli.check_remotes import check_remotes
from radixkv.cli.checks import Check
from radixkv.config import CacheConfig
from radixkv.errors import ConfigError
from radixkv.remote_url import RedisUrl, parse_remote


def test_a_url_says_where_and_how():
    url = parse_remote("redis://me:a%2Fb%40c@host:6380/3?timeout=200ms&ttl=60min")

    assert (url.host, url.port, url.database, url.tls) == ("host", 6380, 3, False)
    assert (url.username, url.password) == ("me", "a/b@c")
    assert (url.timeout_s, url.ttl_s) == (0.2, 3600)


def test_what_is_left_out_is_usual():
    url = parse_remote("redis://host")

    assert (url.port, url.database, url.username, url.password) == (6379, 0, "", "")
    assert (url.timeout_s, url.ttl_s, url.verifies_server) == (1.0, 0, True)


@pytest.mark.parametrize(
    ("text", "num_sightings", "waits"),
    [("through", 1, False), ("seen:3", 3, False), ("evict", 1, True)],
)
def test_what_is_written_is_a_matter_of_each_server(text, num_sightings, waits):
    for url in ("redis://host", "mooncake://host/"):
        policy = parse_remote(f"{url}?write={text}").write
        assert (policy.num_sightings, policy.waits_until_full) == (num_sightings, waits)


def test_a_socket_has_a_path_and_an_encrypted_server_a_certificate():
    socket = parse_remote("unix:///run/redis.sock?db=2")
    secret = parse_remote("rediss://host/?ca=/etc/ca.pem&verify=no")

    assert (socket.unix_path, socket.host, socket.database) == ("/run/redis.sock", "", 2)
    assert (secret.tls, secret.ca_file, secret.verifies_server) == (True, "/etc/ca.pem", False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://host", "begins with redis, rediss, unix"),
        ("host:6379", r"begins with redis, rediss, unix, redis\+sentinel, mooncake"),
        ("redis://", "a host"),
        ("unix://", "a path"),
        ("redis://host:99999", "a port"),
        ("redis://host/zero", "database: expected a number"),
        ("redis://host/3000000000", "database: expected a number from 0 to 2147483647"),
        ("redis://host/" + 5000 * "9", "database: expected a number"),
        ("redis://host:0", "a port"),
        ("redis://host?ttl=400ms", r"ttl: expected 0 \(never\) or from 1s"),
        ("redis://host?ttl=99999999999999min", "ttl: expected 0"),
        ("redis://host?timeout=99999999999999s", "timeout: expected more than 0, at most 3600s"),
        ("mooncake://host?replicas=0", "replicas: expected a number from 1"),
        ("redis://host?tll=1s", "unknown option 'tll'"),
        ("redis://host?ttl=soon", "ttl: expected a duration"),
        ("redis://host?timeout=0", "timeout: expected more than 0"),
        ("redis://host?verify=maybe", "verify: expected yes or no"),
        ("redis+sentinel://one,two/", "the name of the server"),
        ("redis+sentinel://one:x/cache", "a port"),
        ("mooncake://host?protocol=infiniband", "protocol: expected tcp or rdma"),
        ("mooncake://host?pin=hard", "pin: expected no or soft"),
        ("redis://host?write=back", "write: expected through, evict or seen:2"),
        ("mooncake://host?write=seen:0", "write: expected through, evict or seen:2"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url, reason):
    with pytest.raises(ConfigError, match=reason):
        CacheConfig.from_mapping({"remotes": [url]})


@pytest.mark.parametrize("remotes", ["redis://:secret@host", [["redis://:secret@host"]], [7]])
def test_what_is_no_list_of_urls_is_refused(remotes):
    with pytest.raises(ConfigError, match="a list of URLs") as caught:
        CacheConfig.from_mapping({"remotes": remotes})

    assert "secret" not in str(caught.value)


def test_in_python_they_are_a_tuple_of_parsed_urls():
    assert CacheConfig(remotes=(parse_remote("redis://host"),)).remotes

    with pytest.raises(ConfigError, match=r"a tuple of what parse_remote\(URL\) gives") as caught:
        CacheConfig(remotes=["redis://:secret@host"])
    assert "secret" not in str(caught.value)


def test_sentinels_are_several_hosts_and_a_name():
    url = parse_remote("rediss+sentinel://me:it@one,two:7/cache/3?sentinel_password=theirs")

    assert isinstance(url, RedisUrl)
    assert (url.sentinels, url.master_name) == ((("one", 26379), ("two", 7)), "cache")
    assert (url.host, url.database, url.tls) == ("", 3, True)
    assert (url.username, url.password, url.sentinel_password) == ("me", "it", "theirs")
    assert str(url) == "cache by sentinels, database 3"


def test_passwords_are_shown_to_nobody():
    sentinel = "redis+sentinel://:secret@host/cache?sentinel_password=secret"
    config = CacheConfig.from_mapping({"remotes": ["redis://me:secret@host", sentinel]})

    assert "secret" not in repr(config)
    assert str(config.remotes[0]) == "host:6379, database 0"
    for url in ("redis://:secret@host/x", "redis://:secret@[::1/0", "redis://[secret]:6379"):
        with pytest.raises(ConfigError) as caught:
            CacheConfig.from_mapping({"remotes": [url]})
        assert "secret" not in str(caught.value)


def look(*urls: str) -> list[Check]:
    return check_remotes(CacheConfig.from_mapping({"remotes": list(urls)}))


def test_the_doctor_shows_what_a_server_is_and_advises(tmp_path):
    for server in running_server(tmp_path):
        [unlimited] = look(server.tcp_url)
        server.client.config_set("maxmemory", "100mb")
        [unforgetting] = look(server.unix_url)
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        [good] = look(server.unix_url)

    assert "lest it take all memory" in unlimited.advice
    assert "allkeys-lru" in unforgetting.advice
    assert good.status == "ok"
    assert "of 100MiB, allkeys-lru" in good.finding


def test_the_doctor_warns_of_a_server_that_is_not_there_and_fails_on_a_cluster(tmp_path):
    for server in running_server(tmp_path, "--cluster-enabled", "yes"):
        away, cluster = look(f"redis://127.0.0.1:{free_port()}", server.tcp_url)

    assert away.status == "warn"
    assert "refused" in away.finding
    assert cluster.status == "fail"


def test_the_doctor_says_what_it_lacks(monkeypatch):
    import_module = builtins.__import__

    def without_redis(name, *arguments):
        if name == "redis":
            raise ImportError
        return import_module(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_redis)

    [check] = look("redis://host")

    assert check.advice == "pip install redis"
