"""Redis and Valkey servers as remote tiers.

The bulk path is native (`csrc/net`): connections, threads and pipelines of its own, no GIL. Here is
what surrounds it: what a URL means to it, and what an operator wants to know of a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from radixkv import _native
from radixkv.errors import TierError
from radixkv.remote_url import RedisUrl


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
    return endpoint


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

    try:
        with redis.Redis(**_client_options(url)) as client:
            info = client.info("server", "memory", "cluster", "stats")
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


def _client_options(url: RedisUrl) -> dict[str, Any]:
    options: dict[str, Any] = {
        "db": url.database,
        "username": url.username or None,
        "password": url.password or None,
        "socket_timeout": url.timeout_s,
        "socket_connect_timeout": url.timeout_s,
        "retry": None,
    }
    if url.unix_path:
        return options | {"unix_socket_path": url.unix_path}
    options |= {"host": url.host, "port": url.port}
    if url.tls:
        options |= {"ssl": True, "ssl_ca_certs": url.ca_file or None}
        if not url.verifies_server:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return options
