"""radixkv's counters, as vLLM logs them and shows them to Prometheus."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from prometheus_client import Counter, Gauge
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from radixkv import Planner, PlannerCounters

_PREFIX = "vllm:radixkv_"
GAUGES = (
    "memory_used_bytes",
    "memory_size_bytes",
    "disk_used_bytes",
    "disk_size_bytes",
    "kept_tokens",
    "pins",
)
COUNTERS = tuple(spec.name for spec in dataclasses.fields(PlannerCounters))
_read = operator.attrgetter(*COUNTERS)


class RadixKVStats(KVConnectorStats):  # type: ignore[misc]
    """What the counters grew by, and how full the tiers are: names and numbers in `data`."""

    def reset(self) -> None:
        self.data: dict[str, float] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Counters are added up, of gauges the later one counts."""
        for name, value in other.data.items():
            self.data[name] = value + (self.data.get(name, 0) if name in COUNTERS else 0)
        return self

    def reduce(self) -> dict[str, int | float]:
        return {f"radixkv_{name}": value for name, value in self.data.items() if value}

    def is_empty(self) -> bool:
        return not any(self.data.get(name) for name in COUNTERS)


class StatsReader:
    """Reads a planner's counters from one call to the next."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._shown = dataclasses.replace(planner.counters)

    def take(self) -> RadixKVStats | None:
        """What happened since the last call; None if nothing did."""
        counters = self._planner.counters
        if counters == self._shown:
            return None  # in most steps
        before, now = _read(self._shown), _read(counters)
        self._shown = PlannerCounters(*now)
        both = zip(COUNTERS, before, now, strict=True)
        grown = {name: after - count for name, count, after in both if after != count}
        return RadixKVStats(data=grown | self._planner.levels())


class RadixKVPromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """Counters `vllm:radixkv_stored` and so on, gauges `vllm:radixkv_memory_used_bytes` …, with
    vLLM's labels.
    """

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        counter, gauge = metric_types[Counter], metric_types[Gauge]
        families = {name: _family(counter, name, labelnames) for name in COUNTERS}
        families |= {name: _family(gauge, name, labelnames) for name in GAUGES}
        self._metrics = {
            engine: {name: family.labels(*values) for name, family in families.items()}
            for engine, values in per_engine_labelvalues.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Show what one report of an engine says."""
        metrics = self._metrics[engine_idx]
        for name, value in transfer_stats_data.items():
            if name in COUNTERS:
                metrics[name].inc(value)
            elif name in GAUGES:
                metrics[name].set(value)


def _family(kind: Any, name: str, labelnames: list[str]) -> Any:
    about = f"radixkv: {name.replace('_', ' ')}"
    return kind(name=_PREFIX + name, documentation=about, labelnames=labelnames)
