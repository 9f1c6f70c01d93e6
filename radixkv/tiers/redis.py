"""Redis and Valkey servers as remote tiers.

The bulk path is native (`csrc/net`): connections, threads and pipelines of its own, no GIL. Here is
what surrounds it: what a URL means to it, and what an operator wants to know of a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from radixkv import _native
from radixkv.errors import TierError
from radixkv.remote_url import RedisUrl

if TYPE_CHECKING:
    import redis


def native_endpoint(url: RedisUrl) -> _native.RedisEndpoint:
    """What the native side connects to."""
    endpoint = _native.RedisEndpoint()
    endpoint.host = url.host
    endpoint.unix_path = url.unix_path
    endpoint.port = url.port
    endpoint.username = url.username
    endpoint.password = url.password
    endpoint.database = url.database
    endpoint.tls = url.tls
    endpoint.ca_file = url.ca_file
    endpoint.verifies_server = url.verifies_server
    endpoint.timeout_s = url.timeout_s
    endpoint.ttl_s = url.ttl_s
    endpoint.master_name = url.master_name
    endpoint.sentinels = [_sentinel(url, host, port) for host, port in url.sentinels]
    return endpoint


def _sentinel(url: RedisUrl, host: str, port: int) -> _native.RedisEndpoint:
    sentinel = _native.RedisEndpoint()
    sentinel.host = host
    sentinel.port = port
    sentinel.password = url.sentinel_password
    sentinel.tls = url.tls
    sentinel.ca_file = url.ca_file
    sentinel.verifies_server = url.verifies_server
    sentinel.timeout_s = url.timeout_s
    return sentinel


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself.

    Attributes:
        version: Such as "7.0.15".
        is_cluster: It is part of one, which is not served.
        max_bytes: How much it may keep; 0 for no limit.
        used_bytes: How much it keeps now.
        policy: What it does when that is full, such as "allkeys-lru".
        num_evicted: Keys that it has evicted so far.
    """

    version: str
    is_cluster: bool
    max_bytes: int
    used_bytes: int
    policy: str
    num_evicted: int


def inspect_server(url: RedisUrl) -> ServerFacts:
    """Ask a server what it is. Waits for it, within its timeout.

    Raises:
        ImportError: The package `redis` is not installed.
        TierError: It does not answer, or does not let us in.
    """
    import redis
    from redis.sentinel import MasterNotFoundError

    try:
        with _client(url) as client:
            info = client.info("server", "memory", "cluster", "stats")
    except MasterNotFoundError as error:  # its text has the sentinels' password
        reason = "the sentinels do not answer, or know no server of that name"
        raise TierError("redis", "connect", f"{url}: {reason}") from error
    except redis.RedisError as error:
        raise TierError("redis", "connect", f"{url}: {error}") from error
    return ServerFacts(
        version=str(info.get("redis_version", "")),
        is_cluster=bool(info.get("cluster_enabled", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        used_bytes=int(info.get("used_memory", 0)),
        policy=str(info.get("maxmemory_policy", "")),
        num_evicted=int(info.get("evicted_keys", 0)),
    )


def _client(url: RedisUrl) -> redis.Redis:
    import redis
    from redis.sentinel import Sentinel

    options: dict[str, Any] = {
        "socket_timeout": url.timeout_s,
        "socket_connect_timeout": url.timeout_s,
        "retry": None,
    }
    if url.tls:
        options |= {"ssl": True, "ssl_ca_certs": url.ca_file or None}
        if not url.verifies_server:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    user: dict[str, Any] = {
        "username": url.username or None,
        "password": url.password or None,
        "db": url.database,
    }
    if url.sentinels:
        sentinels: Any = Sentinel  # it has no types
        theirs = options | {"password": url.sentinel_password or None}
        asked = sentinels(url.sentinels, sentinel_kwargs=theirs, **options, **user)
        client: redis.Redis = asked.master_for(url.master_name)
        return client
    if url.unix_path:
        return redis.Redis(**options, **user, unix_socket_path=url.unix_path)
    return redis.Redis(**options, **user, host=url.host, port=url.port)
