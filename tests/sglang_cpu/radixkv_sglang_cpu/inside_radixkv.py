"""Looks into radixkv's tree cache, and makes its transfers go wrong where a test asks for it.

Used only where the tree cache is radixkv's; nothing here is needed to run SGLang.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
from pathlib import Path
from typing import Any

# "rank:seed": on this rank, transfers are failed and delayed at random.
FAULTS_VARIABLE = "RADIXKV_TEST_FAULTS"
# A path: while a file is there, the next load that begins takes it away, and fails.
FAIL_LOAD_VARIABLE = "RADIXKV_TEST_FAIL_LOAD"
# Seconds after which the end of a load is heard of.
LATE_LOADS_VARIABLE = "RADIXKV_TEST_LATE_LOADS"
FAULT_PROBABILITY = 0.2
LONGEST_DELAY_S = 0.05


class TickDigest:
    """One number for the states of all ticks so far: equal on ranks that agreed in each of them.

    It counts ticks, and how often the ranks waited for each other in them.
    """

    def __init__(self, cache: Any) -> None:
        self.num_ticks = self.num_agreements = 0
        self.digest = b""
        group = cache._kv._group
        minimum = group.minimum

        def counted(row: Any) -> Any:
            self.num_agreements += 1
            return minimum(row)

        group.minimum = counted

    def add(self, cache: Any) -> None:
        state = repr(cache._kv.planner.index.state_hash()).encode()
        self.digest = hashlib.sha256(self.digest + state).digest()
        self.num_ticks += 1


class RandomFaults:
    """Fails or delays a transfer now and then, from a seeded stream.

    Below SGLang's tree loads are only delayed: once a request is admitted its load cannot fail
    without ending it. (They fail where a test says when: `fail_loads_on_demand`.)
    """

    def __init__(self, executor: Any, seed: int, *, fail_loads: bool) -> None:
        self._executor = executor
        self._rng = random.Random(seed)
        self._fail_loads = fail_loads

    def maybe_inject(self) -> None:
        from radixkv import Fetch, Load, Spill, Store

        if self._rng.random() > FAULT_PROBABILITY:
            return
        kind = self._rng.choice([Store, Load, Spill, Fetch])
        fail = (self._fail_loads or kind is not Load) and self._rng.random() < 0.5
        delay_s = self._rng.uniform(0, LONGEST_DELAY_S)
        self._executor.inject_fault(kind, fail=fail, delay_s=delay_s)


def wanted_faults(executor: Any, rank: int, *, fail_loads: bool = False) -> RandomFaults | None:
    """The faults that the environment asks for on this rank."""
    wanted_rank, _, seed = os.environ.get(FAULTS_VARIABLE, "").partition(":")
    if wanted_rank != str(rank):
        return None
    return RandomFaults(executor, int(seed), fail_loads=fail_loads)


def fail_loads_on_demand(kv: Any, request: Path) -> None:
    """Makes a load fail, after admission, on one rank, if the file `request` was there."""
    from radixkv import Load

    load = kv.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            request.unlink()  # of several ranks one succeeds
            kv.executor.inject_fault(Load, fail=True)
        return load(*args, **kwargs)

    kv.load = watched


def delay_loads(kv: Any, delay_s: float) -> None:
    """The end of every load is heard of late; its layers are there, or fail, as soon as ever."""
    from radixkv import Load

    load = kv.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        kv.executor.inject_fault(Load, fail=False, delay_s=delay_s)
        return load(*args, **kwargs)

    kv.load = watched


def is_radixkv(cache: Any) -> bool:
    return type(cache).__module__.startswith("sglang_ext.")


def watch(cache: Any, rank: int) -> TickDigest:
    """Follows the cache's ticks from now on."""
    digest = TickDigest(cache)
    faults = wanted_faults(cache._kv.executor, rank)
    request = os.environ.get(FAIL_LOAD_VARIABLE)
    if request:
        fail_loads_on_demand(cache._kv, Path(request))
    if LATE_LOADS_VARIABLE in os.environ:
        delay_loads(cache._kv, float(os.environ[LATE_LOADS_VARIABLE]))
    tick = cache.check_hicache_events

    def watched() -> None:
        if faults is not None:
            faults.maybe_inject()
        tick()
        digest.add(cache)

    cache.check_hicache_events = watched
    return digest


def storage_of(cache: Any) -> Any:
    """radixkv as HiCache's storage below a tree cache of SGLang's; None if it is not there."""
    storage = getattr(getattr(cache, "cache_controller", None), "storage_backend", None)
    return storage if type(storage).__module__ == "sglang_ext.storage" else None


def watch_storage(storage: Any, rank: int) -> None:
    """Makes transfers of HiCache's storage go wrong from now on, if the environment says so."""
    faults = wanted_faults(storage._kv.executor, rank, fail_loads=True)
    if faults is None:
        return

    def with_fault(call: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            faults.maybe_inject()
            return call(*args, **kwargs)

        return forward

    storage.batch_get_v1 = with_fault(storage.batch_get_v1)
    storage.batch_set_v1 = with_fault(storage.batch_set_v1)


def describe_storage(storage: Any) -> dict[str, Any]:
    """What radixkv's planner below HiCache knows."""
    planner = storage._kv.planner
    return {
        "in_flight": len(planner.pending_ids),
        "pins": planner.index.stats().pins,
        "counters": dataclasses.asdict(planner.counters),
    }


def describe(cache: Any, digest: TickDigest) -> dict[str, Any]:
    """What the planner knows, in plain values. Checks the invariants of the index, and those of
    SGLang's tree where it can."""
    planner = cache._kv.planner
    planner.index.check_invariants()
    if hasattr(cache, "sanity_check") and not cache.protected_size():  # from 0.5.21 on, when idle
        cache.sanity_check()
    stats = planner.index.stats()
    tiers = {
        name: {
            "ready_chunks": tier.ready_chunks,
            "writing_chunks": tier.writing_chunks,
            "uses": tier.uses,
            "used_units": tier.used_units,
            "total_units": tier.total_units,
            "evicted_chunks": tier.evicted_chunks,
        }
        for name, tier in (("memory", stats.memory), ("disk", stats.disk))
    }
    return {
        "in_flight": len(planner.pending_ids),
        "pins": stats.pins,
        "device_transfers": len(cache.ongoing_write_through) + len(cache.ongoing_load_back),
        "restored_chunks": cache._kv.num_restored_chunks,
        "counters": dataclasses.asdict(planner.counters),
        "tiers": tiers,
        "num_ticks": digest.num_ticks,
        "num_agreements": digest.num_agreements,
        "tick_digest": digest.digest.hex(),
    }
