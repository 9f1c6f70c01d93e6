"""What SGLang loads in every process: the backend, its flag, and the switches that one flag has to
set.

A registered radix cache backend replaces SGLang's own, but SGLang tells it that a request queues,
lets it hold a request back and calls it once a step only where hierarchical caching with a storage
backend is on. So those two switches are set before arguments are resolved; no HiCache object is
built, since a registered backend wins.
"""

from __future__ import annotations

import argparse
import logging
import os
from functools import partial
from typing import Any

from radixkv import CacheConfig
from sglang_ext.layer_waits import LayerWaits
from sglang_ext.support import check_arguments, check_release

logger = logging.getLogger(__name__)

BACKEND = "radixkv"
_OURS = '{"backend_name": "radixkv"}'  # marks switches that were set here, not by the user
# Of a scheduler whose weights are not those of its start: whether HiCache has KV of those before.
_HAS_OLD_KV = "radixkv_has_old_kv"


def activate() -> None:
    """Entry point of the group `sglang.srt.plugins`: register, and hook the rest."""
    from sglang.srt.managers.scheduler_components.weight_updater import (
        SchedulerWeightUpdaterManager,
    )
    from sglang.srt.mem_cache.registry import (
        get_radix_cache_factory,
        register_radix_cache_backend,
    )
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.server_args import ServerArgs

    if get_radix_cache_factory(BACKEND) is None:
        register_radix_cache_backend(BACKEND, _build)
    arguments = "sglang.srt.server_args.ServerArgs."
    resolve = "resolve_once" if hasattr(ServerArgs, "resolve_once") else "__post_init__"
    HookRegistry.register(arguments + "add_cli_args", _add_flag, HookType.AFTER)
    HookRegistry.register(arguments + "from_cli_args", _read_flag, HookType.BEFORE)
    HookRegistry.register(arguments + resolve, _open_gates, HookType.BEFORE)
    updater = (
        "sglang.srt.managers.scheduler_components.weight_updater.SchedulerWeightUpdaterManager."
    )
    for source in ("disk", "distributed", "tensor", "ipc"):
        HookRegistry.register(
            f"{updater}update_weights_from_{source}", _after_weight_update, HookType.AFTER
        )
    for call in ("begin_weight_update", "end_weight_update"):
        if hasattr(SchedulerWeightUpdaterManager, call):  # from 0.5.21 on
            HookRegistry.register(updater + call, _around_weight_update, HookType.BEFORE)
    embed = "sglang.srt.managers.tp_worker.BaseTpWorker.forward_batch_embedding"
    HookRegistry.register(embed, _before_embedding, HookType.BEFORE)
    scheduler = "sglang.srt.managers.scheduler.Scheduler."
    HookRegistry.register(scheduler + "flush_cache", _before_flush, HookType.BEFORE)
    HookRegistry.register(scheduler + "flush_cache", _after_flush, HookType.AFTER)
    HookRegistry.register(
        scheduler + "attach_hicache_storage_wrapped", _after_attach, HookType.AFTER
    )
    HookRegistry.register(updater + "release_memory_occupation", _before_flush, HookType.BEFORE)


def _build(ctx: Any) -> Any:
    """The tree cache for the cache API that this SGLang has."""
    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache

    if hasattr(BasePrefixCache, "cache_finished_req"):
        from sglang_ext.radix_cache import RadixKVCache

        return RadixKVCache(ctx)
    from sglang.srt.mem_cache.registry import create_unified_radix_cache

    from sglang_ext.insert_req_cache import InsertReqKVCache
    from sglang_ext.unified_cache import UnifiedKVCache

    has_insert_req = hasattr(BasePrefixCache, "insert_req")
    cache_class = InsertReqKVCache if has_insert_req else UnifiedKVCache
    return create_unified_radix_cache(ctx, cache_class=partial(cache_class, ctx))


def _add_flag(_: None, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
    parser.add_argument(
        "--radixkv-config",
        metavar="FILE",
        help="YAML file with radixkv's settings, for --radix-cache-backend radixkv.",
    )


def _read_flag(_: type, args: argparse.Namespace, *more: Any, **kwargs: Any) -> None:
    """The flag is no field of SGLang's: worker processes get it through the environment."""
    path = getattr(args, "radixkv_config", None)
    if not path:
        return
    os.environ["RADIXKV_CONFIG"] = os.path.abspath(path)
    storage = getattr(args, "hicache_storage_backend", None)
    if getattr(args, "radix_cache_backend", None) != BACKEND and storage is None:
        logger.warning(
            "--radixkv-config has no effect: radixkv serves with --radix-cache-backend %s", BACKEND
        )


def _open_gates(args: Any, *more: Any, **kwargs: Any) -> None:
    if getattr(args, "radix_cache_backend", None) != BACKEND:
        return
    if getattr(args, "_resolution_finished", False):
        return
    import sglang

    if args.hicache_storage_backend_extra_config != _OURS:
        check_release(sglang.__version__)
        check_arguments(args)
        CacheConfig.from_environment()  # a mistake in the file ends the start here already
    args.enable_hierarchical_cache = True
    args.hicache_storage_backend = "dynamic"
    args.hicache_storage_backend_extra_config = _OURS
    if hasattr(args, "hicache_host_memory_fraction"):  # from 0.5.21 on
        args.hicache_host_memory_fraction = None  # or SGLang wants room for a host pool of its own


def _before_embedding(worker: Any, batch: Any, *more: Any, **kwargs: Any) -> None:
    """SGLang names a batch's loads before a forward that generates, but not before one that embeds,
    which would read KV that is not there yet."""
    counter = getattr(worker, "hicache_layer_transfer_counter", None)
    if isinstance(counter, LayerWaits):
        counter.set_consumer(batch.hicache_consumer_index)


def _before_flush(caller: Any, *more: Any, **kwargs: Any) -> None:
    """SGLang refuses to flush, and fails a weight update, while a copy from the device runs."""
    scheduler = getattr(getattr(caller, "is_fully_idle", None), "__self__", None)
    drain = getattr(getattr(scheduler, "tree_cache", None), "drain", None)
    if drain is not None:
        drain()


def _after_flush(is_flushed: Any, scheduler: Any, *more: Any, **kwargs: Any) -> None:
    """SGLang has emptied its tree, if it was idle."""
    if not is_flushed:
        return
    if hasattr(scheduler, _HAS_OLD_KV):
        setattr(scheduler, _HAS_OLD_KV, False)
    storage = _storage_of(scheduler)
    if storage is not None:
        storage.flushed()


def _after_attach(_: Any, scheduler: Any, *more: Any, **kwargs: Any) -> None:
    """HiCache may have got its storage just now: it believes in the weights of the start."""
    storage = _storage_of(scheduler)
    has_old_kv = getattr(scheduler, _HAS_OLD_KV, None)
    if storage is None or has_old_kv is None or storage.has_heard_of_weights:
        return
    storage.weights_changed(None)  # what lies in their folder may be others' by now
    if not has_old_kv:
        storage.flushed()


def _after_weight_update(
    result: Any, manager: Any, request: Any, *more: Any, **kwargs: Any
) -> None:
    """SGLang has loaded weights, from whatever source. Where it failed it may have loaded some."""
    is_done = getattr(result, "success", False)
    _tell_of_new_weights(manager, getattr(request, "model_path", None) if is_done else None)


def _around_weight_update(manager: Any, *more: Any, **kwargs: Any) -> None:
    """An update begins or ends. Unless SGLang loads weights in between, others write them."""
    update = manager._session
    if update is None or not update.loaded_weights:
        _tell_of_new_weights(manager, None)


def _tell_of_new_weights(manager: Any, model_path: str | None) -> None:
    """KV of the old weights must not be found for the new ones, on any tier."""
    scheduler = getattr(manager.is_fully_idle, "__self__", None)
    cache, storage = getattr(scheduler, "tree_cache", None), _storage_of(scheduler)
    for keeper in (cache, storage):
        weights_changed = getattr(keeper, "weights_changed", None)
        if weights_changed is not None:
            weights_changed(model_path)
    if scheduler is None:
        return
    is_empty = _is_empty(scheduler)
    setattr(scheduler, _HAS_OLD_KV, not is_empty)
    if storage is not None and is_empty:
        storage.flushed()  # before the update, or within it


def _is_empty(scheduler: Any) -> bool:
    """Whether SGLang has no KV, on the device or in HiCache's host pool, and computes none."""
    cache = scheduler.tree_cache
    pool: Any = getattr(getattr(cache, "cache_controller", None), "mem_pool_host", None)
    if not hasattr(pool, "available_size"):  # no HiCache
        return False
    batches = (getattr(scheduler, name, None) for name in ("running_batch", "last_batch"))
    is_computing = any(batch is not None and batch.reqs for batch in batches)
    num_device_tokens = cache.evictable_size() + cache.protected_size()
    num_host_tokens = getattr(pool, "logical_size", pool.size) - pool.available_size()
    return not (is_computing or num_device_tokens or num_host_tokens)


def _storage_of(scheduler: Any) -> Any:
    """HiCache's storage backend, if it is radixkv's."""
    cache = getattr(scheduler, "tree_cache", None)
    storage = getattr(getattr(cache, "cache_controller", None), "storage_backend", None)
    return storage if hasattr(storage, "flushed") else None
