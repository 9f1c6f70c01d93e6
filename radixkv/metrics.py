"""Counters for Prometheus, where its client is installed; elsewhere nothing happens.

    metrics = Metrics(rank=0)
    if metrics.is_due(time.monotonic()):
        metrics.update(planner.counters, {"memory_used_bytes": used})

A counter `stored` becomes `radixkv_stored_total`, a gauge `memory_used_bytes` becomes
`radixkv_memory_used_bytes`; both carry the rank as a label. The client's own objects are used, so
that its multi-process mode works: an engine's scheduler counts, its HTTP server shows. The client
is imported at the first update and no earlier, because that mode is set before it is imported.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

INTERVAL_S = 1.0

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Metrics:
    """What one rank shows to Prometheus.

    Args:
        rank: The label of its metrics.
        registry: A `prometheus_client.CollectorRegistry`; the client's own if it is None.
    """

    def __init__(self, *, rank: int, registry: Any = None) -> None:
        self._rank = str(rank)
        self._registry = registry
        self._shown: dict[str, int] = {}
        self._due_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """True once a second, so that an engine may ask at every step."""
        if now_s < self._due_s:
            return False
        self._due_s = now_s + INTERVAL_S
        return True

    def update(self, counters: DataclassInstance, gauges: Mapping[str, float]) -> None:
        """Add what counters grew by since the last call, and set the gauges.

        Args:
            counters: A dataclass of whole numbers that never fall.
            gauges: Values by name.
        """
        try:
            from prometheus_client import Counter, Gauge
        except ImportError:
            return
        for name, value in asdict(counters).items():
            counter = _metric(Counter, name, self._registry).labels(self._rank)
            counter.inc(value - self._shown.get(name, 0))
            self._shown[name] = value
        for name, level in gauges.items():
            _metric(Gauge, name, self._registry).labels(self._rank).set(level)


@functools.cache
def _metric(kind: Any, name: str, registry: Any) -> Any:
    """One object a name and registry, which several caches in a process share."""
    about = f"radixkv: {name.replace('_', ' ')}"
    where = {} if registry is None else {"registry": registry}
    return kind(f"radixkv_{name}", about, ["rank"], **where)
