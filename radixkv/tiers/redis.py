"""Redis and Valkey servers as remote tiers.

The bulk path is native (`csrc/net`): connections, threads and pipelines of its own, no GIL. Here is
what surrounds it: what a URL means to it, and what an operator wants to know of a server.
"""

from __future__ import annotations

from radixkv import _native
from radixkv.remote_url import RemoteUrl


def native_endpoint(url: RemoteUrl) -> _native.RedisEndpoint:
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
