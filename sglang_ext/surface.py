"""What SGLang touches on a cache without asking, once hierarchical caching is switched on.

None of it is in SGLang's interface; each attribute is read by name somewhere in the scheduler or,
from 0.5.21 on, in SGLang's own tree cache:

`ongoing_write_through`, `ongoing_load_back`
    `is_fully_idle`: flush, weight updates and the leak check wait for these.
`ongoing_prefetch`, `ongoing_backup`, `enable_storage`
    The same, for a storage backend.
`token_to_kv_pool_host`
    Metrics: used and total tokens of the host tier; asserted, so it must be there.
`cache_controller.storage_backend`
    Its class name becomes `storage_backend` in `cached_tokens_details`.
`hicache_storage_pass_prefix_keys`
    The queue notice: whether to compute page hashes first.
`flush_write_through_acks`, `flush_pending_backups`, `terminate_prefetch`
    Called before decoding, after a batch's results and on abort.

The `ongoing_*` must hold exactly the transfers that touch the device: one missing and the leak
check finds locked slots that nothing explains, one too many and a flush, and with it a weight
update, is refused.
"""

from __future__ import annotations

from typing import Any

from radixkv import KVCache
from sglang_ext.layer_waits import LayerWaits


class radixkv:  # noqa: N801 (its name is what users read in `cached_tokens_details`)
    """Names the storage backend in SGLang's answers."""


class Controller:
    """The part of HiCache's controller that SGLang reads."""

    storage_backend = radixkv()
    storage_backend_type = "radixkv"  # read from 0.5.23 on


class UnifiedController(Controller):
    """What SGLang's `UnifiedRadixCache` and its makers read of a controller (from 0.5.21 on).

    The scheduler also sets two streams on it, which a transfer has to wait for. Both are the
    worker's forward stream, which the transfers know already.
    """

    write_policy = "none"  # so that eviction does not wait for copies to a host pool
    pp_prefetch_command_group = None
    enable_storage = False

    def __init__(self, layer_done_counter: LayerWaits) -> None:
        self.layer_done_counter = layer_done_counter
        self.mem_pool_host = self

    def reset(self) -> None:
        """There is nothing to empty here: the tree cache empties memory itself."""

    clear = reset


class HostPool:
    """The memory tier's size and free room in tokens, as SGLang's metrics ask for them."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        unit_tokens = cache.executor.unit_bytes / cache.layout.token_bytes
        self._unit_tokens = unit_tokens
        self.size = self.logical_size = int(cache.executor.memory_units * unit_tokens)

    def available_size(self) -> int:
        """Tokens that fit without evicting."""
        memory = self._cache.planner.index.stats().memory
        return int((memory.total_units - memory.used_units) * self._unit_tokens)


class HiCacheSurface:
    """Mixed into the tree cache; the tree keeps the two dicts of device transfers up to date."""

    hicache_storage_pass_prefix_keys = False
    enable_storage = True
    storage_prefetch_retries = None  # read from 0.5.20 on
    buffer_pipeline = None  # read from 0.5.20 on
    cache_controller = Controller()

    def __init__(self) -> None:
        self.ongoing_write_through: dict[int, Any] = {}  # command id -> node locked for a store
        self.ongoing_load_back: dict[int, Any] = {}  # command id -> node locked for a load
        self.ongoing_prefetch: dict[str, Any] = {}  # stays empty: disk to memory touches no device
        self.ongoing_backup: dict[int, Any] = {}  # stays empty: memory to disk neither

    def flush_write_through_acks(self) -> None:
        """Acks are taken in once a step, in `check_hicache_events`."""

    flush_pending_backups = flush_write_through_acks

    def is_backuped(self, node: Any) -> bool:
        """Whether a queued request may be announced: always, whatever part of it the device has."""
        return True
