"""Shows a test what happens inside SGLang's scheduler, through `GET /server_info`.

The answer's `internal_states[0]["probe"]` is a list with one entry a rank. Each entry holds what
the scheduler process knows at that moment and, independent of SGLang's own accounting, what was
seen going by since the last probe: the tokens that each request gave to the model's forward, and
the calls that reached the tree cache.

What radixkv itself knows is added by `inside_radixkv.py`, where the tree cache is radixkv's.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from . import inside_radixkv, kv_audit, store_claims
from .call_timer import CallTimer

# The calls through which a cache outside the GPU lives. Counted on whatever tree cache is there.
CACHE_CALLS = (
    "cache_finished_req",
    "cache_unfinished_req",
    "check_hicache_events",
    "check_prefetch_progress",
    "checkpoint",
    "evict",
    "init_load_back",
    "insert_req",
    "match_prefix",
    "on_release",
    "pop_prefetch_loaded_span",
    "pop_prefetch_loaded_tokens",
    "prefetch_from_storage",
    "ready_to_load_host_cache",
    "release_aborted_request",
    "reset",
)

prefilled_tokens: Counter[str] = Counter()
cache_calls: Counter[str] = Counter()


def count_forward(_runner: Any, forward_batch: Any, *_: Any, **__: Any) -> None:
    """Before ModelRunner.forward: adds each request's share of the prompt tokens in this step."""
    if not forward_batch.forward_mode.is_extend():
        return
    shares = dict(zip(forward_batch.rids, forward_batch.extend_seq_lens_cpu, strict=True))
    if sum(shares.values()) != forward_batch.input_ids.numel():
        raise AssertionError(f"the forward got {forward_batch.input_ids.numel()}, shares {shares}")
    prefilled_tokens.update(shares)


def watch_cache(_result: None, scheduler: Any, *_: Any, **__: Any) -> None:
    """After Scheduler.__init__: counts each call of CACHE_CALLS on its way to the cache."""
    import torch.distributed

    def counted(name: str, call: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            cache_calls[name] += 1
            return timer(name, lambda: call(*args, **kwargs))

        return forward

    cache = scheduler.tree_cache
    timer = scheduler.cache_call_timer = CallTimer()
    rank = torch.distributed.get_rank(scheduler.tp_cpu_group)
    if inside_radixkv.is_radixkv(cache):
        scheduler.radixkv_ticks = inside_radixkv.watch(cache, rank)
        scheduler.store_claims = store_claims.watch(cache._kv)
    storage = inside_radixkv.storage_of(cache)
    if storage is not None:
        inside_radixkv.watch_storage(storage, rank)
    for name in CACHE_CALLS:
        if hasattr(cache, name):
            setattr(cache, name, counted(name, getattr(cache, name)))


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def num_slots_twice(scheduler: Any) -> int:
    """Slots that are free and in the tree at once, or twice in either: two would write there."""
    import torch

    cache, allocator = scheduler.tree_cache, scheduler.token_to_kv_pool_allocator
    if hasattr(allocator, "get_all_free_pages"):  # from 0.5.20 on
        free_pages = allocator.get_all_free_pages()
    else:
        free_pages = torch.cat((allocator.free_pages, allocator.release_pages))
    in_page = torch.arange(scheduler.page_size)
    slots = (free_pages[:, None] * scheduler.page_size + in_page).flatten()
    if cache.evictable_size() + cache.protected_size() > 0:
        slots = torch.cat((slots, cache.all_values_flatten()))
    return len(slots) - len(slots.unique())


def look_inside(scheduler: Any) -> dict[str, Any]:
    """This rank's state; starts the counts anew."""
    import torch.distributed
    from sglang.srt.utils.common import cpu_has_amx_support

    cache = scheduler.tree_cache
    state: dict[str, Any] = {
        "rank": torch.distributed.get_rank(scheduler.tp_cpu_group),
        "cache": type(cache).__name__,
        "uses_amx_kernels": cpu_has_amx_support(),
        "overlap": scheduler.enable_overlap,
        "page_size": scheduler.page_size,
        "idle": scheduler.is_fully_idle(),
        "resident_bytes": resident_bytes(),
        "total_slots": scheduler.max_total_num_tokens,
        "available_slots": scheduler.token_to_kv_pool_allocator.available_size(),
        "evictable_slots": cache.evictable_size(),
        "protected_slots": cache.protected_size(),
        "slots_twice": num_slots_twice(scheduler),
        "prefilled_tokens": dict(prefilled_tokens),
        "cache_calls": dict(cache_calls),
        "longest_call": scheduler.cache_call_timer.take_longest(),
    }
    if inside_radixkv.is_radixkv(cache):
        state["radixkv"] = inside_radixkv.describe(cache, scheduler.radixkv_ticks)
        state["store_claims"] = scheduler.store_claims.describe()
    storage = inside_radixkv.storage_of(cache)
    if storage is not None:
        state["storage"] = inside_radixkv.describe_storage(storage)
    state["kv_audit"] = kv_audit.describe()
    prefilled_tokens.clear()
    cache_calls.clear()
    return state


def add_probe(result: Any, scheduler: Any, *_: Any, **__: Any) -> Any:
    """After Scheduler.get_internal_state, which every rank runs: gathers all ranks' states."""
    import torch.distributed

    group = scheduler.tp_cpu_group
    states: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(states, look_inside(scheduler), group=group)
    result.internal_state["probe"] = states
    return result


def install() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    forward = "sglang.srt.model_executor.model_runner.ModelRunner.forward"
    HookRegistry.register(forward, count_forward, HookType.BEFORE)
    HookRegistry.register(f"{scheduler}.__init__", watch_cache, HookType.AFTER)
    HookRegistry.register(f"{scheduler}.get_internal_state", add_probe, HookType.AFTER)
