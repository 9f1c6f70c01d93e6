"""RadixKVConnector: what vLLM calls, in the scheduler and in each worker.

    --kv-transfer-config '{"kv_connector": "RadixKVConnector", "kv_role": "kv_both"}'

One class for both roles, as vLLM wants it; each role's work is in a module of its own, and this one
says which call goes where. An engine that is not covered (`support.py`) is served as if there were
no connector.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
)

from vllm_ext.metadata import StepPlan, WorkerReport
from vllm_ext.scheduler import SchedulerSide
from vllm_ext.settings import read_settings
from vllm_ext.stats import RadixKVPromMetrics, RadixKVStats, StatsReader
from vllm_ext.support import why_not_covered
from vllm_ext.worker import WorkerSide

logger = logging.getLogger(__name__)


class RadixKVConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """radixkv inside vLLM.

    Args:
        vllm_config: vLLM's settings.
        role: Whether this object is the scheduler's or a worker's.
        kv_cache_config: How the KV cache was laid out.

    Raises:
        ConfigError: A setting in `kv_connector_extra_config` is wrong.
        TierError: A tier could not be opened.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self.scheduler: SchedulerSide | None = None
        self.worker: WorkerSide | None = None
        _log_as_vllm_does()
        reason = why_not_covered(vllm_config, kv_cache_config)
        if reason is not None:
            if role is KVConnectorRole.SCHEDULER:
                logger.warning("radixkv: prompts are computed, not reused: %s", reason)
            return
        settings = read_settings(vllm_config, kv_cache_config)
        if role is KVConnectorRole.SCHEDULER:
            self.scheduler = SchedulerSide(settings, vllm_config, kv_cache_config)
            self._stats = StatsReader(self.scheduler.planner)
            _warn_of_policy(vllm_config.kv_transfer_config)
        else:
            self.worker = WorkerSide(settings, get_tensor_model_parallel_rank())

    @property
    def requires_kv_delivery(self) -> bool:
        """What is not stored is computed again: a preempted request may go on."""
        return False

    def shutdown(self) -> None:
        if self.worker is not None:
            self.worker.close()
        if self.scheduler is not None:
            self.scheduler.close()

    # --- the scheduler's

    def on_new_request(self, request: Any) -> None:
        if self.scheduler is not None:
            self.scheduler.on_new_request(request)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if self.scheduler is None:
            return 0, False
        return self.scheduler.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self.scheduler is not None:
            self.scheduler.after_alloc(request, blocks, num_external_tokens)

    def get_external_cache_hit_sources(
        self, request: Any, num_external_tokens: int
    ) -> dict[Any, int]:
        """vLLM calls this only where it tells sources apart."""
        from vllm.v1.metrics.cache_hit_source import CacheHitSource

        if self.scheduler is None:
            return {}
        found = self.scheduler.hit_sources(request, num_external_tokens)
        return {CacheHitSource(tier): num_tokens for tier, num_tokens in found.items()}

    def build_connector_meta(self, scheduler_output: Any) -> StepPlan:
        if self.scheduler is None:
            return StepPlan()
        return self.scheduler.build_plan(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        if self.scheduler is not None:
            self.scheduler.hear(
                connector_output.kv_connector_worker_meta,
                has_lost_blocks=bool(connector_output.invalid_block_ids),
            )

    def has_pending_push_work(self) -> bool:
        return self.scheduler is not None and self.scheduler.is_busy

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        if self.scheduler is not None:
            self.scheduler.finished(request, block_ids)
        return False, None

    def reset_cache(self) -> bool | None:
        return None if self.scheduler is None else self.scheduler.reset()

    def get_kv_connector_stats(self) -> RadixKVStats | None:
        return None if self.scheduler is None else self._stats.take()

    def take_events(self) -> list[Any]:
        events = None if self.scheduler is None else self.scheduler.events
        return [] if events is None else events.take()

    # --- a worker's

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        if self.worker is not None:
            self.worker.attach(kv_caches)

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        """The first call of a step, before any block is written."""
        if self.worker is not None:
            self.worker.begin_step(kv_connector_metadata)

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self.worker is not None:
            self.worker.begin_step(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Loads began with the step."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        if self.worker is not None:
            self.worker.wait_layer(layer_name)

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Stores begin with the next step, when all layers are there."""

    def wait_for_save(self) -> None:
        """Nothing is being stored of what this step computes."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        if self.worker is None:
            return None, None
        return None, self.worker.end_step() or None

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        """What vLLM asks from 0.30 on, in place of `get_finished`."""
        results = super().get_transfer_results(finished_req_ids)
        if self.worker is not None:
            received = results.finished_recving
            results.failed_recving |= self.worker.take_failed_requests(received)
        return results

    def get_block_ids_with_load_errors(self) -> set[int]:
        return set() if self.worker is None else self.worker.take_lost_blocks()

    def build_connector_worker_meta(self) -> WorkerReport | None:
        return None if self.worker is None else self.worker.take_report()

    # --- the class's

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        """A graph captured whole would not wait for the layers of synchronous loads."""
        return extra_config.get("loads") == "sync"

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> RadixKVStats:
        return RadixKVStats(data=dict(data or {}))

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> RadixKVPromMetrics:
        return RadixKVPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _log_as_vllm_does() -> None:
    """vLLM gives handlers to its own loggers only."""
    for name in ("radixkv", "vllm_ext"):
        ours = logging.getLogger(name)
        if not ours.hasHandlers():
            ours.setLevel(logging.INFO)
            ours.propagate = False
            for handler in logging.getLogger("vllm").handlers:
                ours.addHandler(handler)


def _warn_of_policy(transfer: Any) -> None:
    if transfer.kv_load_failure_policy != "recompute":
        logger.warning(
            "radixkv: a prompt whose KV cannot be loaded ends with an error; "
            '"kv_load_failure_policy": "recompute" in --kv-transfer-config computes it instead'
        )
