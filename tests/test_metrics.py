"""Counters and gauges as Prometheus reads them."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import prometheus_client
import pytest

from radixkv import CacheConfig, KVCache, describe_arrays
from radixkv.metrics import Metrics


@dataclass
class Counters:
    stored: int = 0
    loads_failed: int = 0


def sample(name: str) -> float:
    """A value of rank 0 in the client's own registry; 0 where there is none yet."""
    return prometheus_client.REGISTRY.get_sample_value(name, {"rank": "0"}) or 0.0


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


def test_counters_add_up_over_updates(registry):
    shown = Metrics(rank=3, registry=registry)
    counters = Counters(stored=64)

    shown.update(counters, {})
    counters.stored += 36
    shown.update(counters, {})

    assert registry.get_sample_value("radixkv_stored_total", {"rank": "3"}) == 100
    assert registry.get_sample_value("radixkv_loads_failed_total", {"rank": "3"}) == 0


def test_gauges_show_the_last_level(registry):
    shown = Metrics(rank=0, registry=registry)

    shown.update(Counters(), {"memory_used_bytes": 7.0})
    shown.update(Counters(), {"memory_used_bytes": 5.0})

    assert registry.get_sample_value("radixkv_memory_used_bytes", {"rank": "0"}) == 5


def test_two_caches_of_a_process_share_a_metric(registry):
    for stored in (60, 40):
        Metrics(rank=0, registry=registry).update(Counters(stored=stored), {})

    assert registry.get_sample_value("radixkv_stored_total", {"rank": "0"}) == 100


def test_without_the_client_nothing_happens(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    Metrics(rank=0, registry=registry).update(Counters(stored=1), {"memory_used_bytes": 1.0})

    assert list(registry.collect()) == []


def test_an_update_is_due_once_a_second():
    shown = Metrics(rank=0)

    assert [shown.is_due(now_s) for now_s in (100.0, 100.9, 101.0, 101.1)] == [
        *(True, False, True, False)
    ]


def test_a_cache_shows_what_it_holds():
    engine = np.zeros((64, 8), np.uint8)
    layout, memory = describe_arrays([engine, engine.copy()])
    config = CacheConfig(chunk_tokens=16, memory_size_bytes=1 << 20)

    with KVCache(layout, config, engine=memory) as cache:
        before = sample("radixkv_stored_total")
        ticket = cache.store(np.arange(40), np.arange(40))
        assert ticket is not None
        ticket.wait()
        cache.show_metrics()

    assert sample("radixkv_stored_total") - before == 40
    assert sample("radixkv_memory_size_bytes") == 1 << 20
    assert sample("radixkv_kept_tokens") == 40


def test_a_cache_sets_the_level_of_its_log():
    layout, _ = describe_arrays([np.zeros((4, 8), np.uint8)] * 2)

    with KVCache(layout, CacheConfig(memory_size_bytes=1 << 20, log_level="warning")):
        assert not logging.getLogger("radixkv.cache").isEnabledFor(logging.INFO)


def test_the_client_is_not_imported_before_it_is_needed():
    program = "import sys, radixkv.metrics; sys.exit('prometheus_client' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program])

    assert done.returncode == 0
