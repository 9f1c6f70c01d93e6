"""Counters and gauges as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import prometheus_client
import pytest

from radixkv.metrics import Metrics


@dataclass
class Counters:
    stored: int = 0
    loads_failed: int = 0


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


def test_the_client_is_not_imported_before_it_is_needed():
    program = "import sys, radixkv.metrics; sys.exit('prometheus_client' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program])

    assert done.returncode == 0
