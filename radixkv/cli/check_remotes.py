"""Checks of the remote servers that the settings name: are they there, and will they do?"""

from __future__ import annotations

from radixkv.cli.checks import Check, fail, ok, warn
from radixkv.config import CacheConfig
from radixkv.errors import TierError
from radixkv.remote_url import MooncakeUrl, RemoteUrl
from radixkv.tiers.mooncake import import_store, missing_device
from radixkv.tiers.redis import ServerFacts, inspect_server
from radixkv.units import approximate_size


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
        advice = "it is asked again while radixkv runs; until it answers nothing is shared"
        return warn(name, error.reason, advice)
    if facts.is_cluster:
        return fail(name, "part of a cluster, which is not served", "name a single server")
    return _judge(name, facts)


def _check_mooncake(name: str, url: MooncakeUrl) -> Check:
    """Its client waits 90 seconds for a master that is not there: it is not asked here."""
    try:
        import_store()
    except TierError as error:
        return fail(name, "its client cannot be imported", error.reason)
    missing = missing_device(url)
    if missing is not None:
        return fail(name, missing, "say protocol=tcp, or name a device that this host has")
    return ok(name, "its client is here")


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
