"""Checks of the remote servers that the settings name: are they there, and will they do?"""

from __future__ import annotations

import socket

from radixkv.cli.checks import Check, fail, ok, warn
from radixkv.config import CacheConfig
from radixkv.errors import TierError
from radixkv.remote_url import MooncakeUrl, RemoteUrl
from radixkv.tiers.mooncake import import_store, missing_device
from radixkv.tiers.redis import ServerFacts, inspect_server
from radixkv.units import approximate_size

_PATIENCE_S = 2.0
_ASKED_AGAIN = "it is asked again while radixkv runs; until it answers nothing is shared"


def check_remotes(config: CacheConfig) -> list[Check]:
    """One line a server. None keeps radixkv from starting: without them it serves what it has."""
    return [_check_remote(url) for url in config.remotes]


def _check_remote(url: RemoteUrl) -> Check:
    name = f"remote {url}"
    if isinstance(url, MooncakeUrl):
        return _check_mooncake(name, url)
    try:
        facts = inspect_server(url)
    except ImportError:
        return warn(name, "not asked: the package redis is missing", "pip install redis")
    except TierError as error:
        return warn(name, error.reason, _ASKED_AGAIN)
    if facts.is_cluster:
        return fail(name, "part of a cluster, which is not served", "name a single server")
    return _judge(name, facts)


def _check_mooncake(name: str, url: MooncakeUrl) -> Check:
    """Its client waits 90 seconds for a master that is not there, so it only asks who listens."""
    try:
        import_store()
    except TierError as error:
        return fail(name, "its client cannot be imported", error.reason)
    missing = missing_device(url)
    if missing is not None:
        return fail(name, missing, "say protocol=tcp, or name a device that this host has")
    host, _, port = url.master.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
    except OSError as error:
        return warn(name, f"the master does not answer: {error.strerror or error}", _ASKED_AGAIN)
    return ok(name, "its client is here, and its master listens")


def _judge(name: str, facts: ServerFacts) -> Check:
    limit = approximate_size(facts.max_bytes) if facts.max_bytes else "no limit"
    used = approximate_size(facts.used_bytes)
    finding = f"Redis {facts.version}, {used} of {limit}, {facts.policy}"
    if facts.num_evicted:
        finding += f", {facts.num_evicted} keys evicted so far"
    if not facts.max_bytes:
        advice = "set maxmemory, lest it take all memory of its host: CONFIG SET maxmemory 50gb"
        return warn(name, finding, advice)
    if facts.policy == "noeviction":
        advice = "let it forget what is not used: CONFIG SET maxmemory-policy allkeys-lru"
        return warn(name, finding, advice)
    return ok(name, finding)
