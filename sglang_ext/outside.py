"""What both generations of SGLang's cache API have in common: KV outside the device.

SGLang's own tree says what the device holds; it stays as it is. `OutsideDevice` adds what is kept
elsewhere, and is mixed into SGLang's class before it. The tree itself differs between generations,
and with it when a request is matched and kept; that is in `radix_cache.py`, `unified_cache.py` and
`insert_req_cache.py`.

    prefetch_from_storage     a request queues: disk → memory begins
    check_prefetch_progress   hold it back until that is done or late
    ready_to_load_host_cache  a batch is made: its layers wait for the loads under way
    check_hicache_events      once a step: hear what ended, unlock, plan what follows
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams

from radixkv import CacheConfig, CompletionStatus, KVCache, Load, SlotSource, Store, Ticket
from sglang_ext import BEGAN_S
from sglang_ext.failed_loads import forget_poison
from sglang_ext.identity import (
    adapter_identities,
    draw_nonce,
    engine_namespace,
    new_weights,
    tensors_at_start,
)
from sglang_ext.layer_waits import LayerWaits
from sglang_ext.pool import describe_pool, engine_slots, stream_reader
from sglang_ext.ranks import rank_group
from sglang_ext.requests import (
    RequestState,
    RequestTrees,
    era_of_kv,
    is_served,
    rid_of,
    set_state,
    state_of,
)
from sglang_ext.surface import HiCacheSurface, HostPool

logger = logging.getLogger(__name__)

_DRAIN_ROUNDS = 1000  # of 10 ms at most


@dataclass(slots=True, kw_only=True)
class LoadUnderWay:
    """A load whose slots are in the device's tree already.

    Attributes:
        ticket: What to wait on.
        failed: Whether that is known, and its readers are ended.
    """

    ticket: Ticket
    failed: bool = False


class OutsideDevice(HiCacheSurface):
    """One rank's KV outside the device, as the tree cache that it is mixed into needs it.

    That tree cache locks nodes (`_hold`, `_let_go`), puts slots under load into its tree (`_load`),
    says who reads what a load brings (`_reads`) and what becomes of it if the load fails
    (`_load_failed`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._loads: dict[int, Any] = {}
        self._prefetching: dict[str, RequestState] = {}
        self._last_matched: RequestState | None = None
        self._matched_requests: weakref.WeakSet[Any] = weakref.WeakSet()

    def _open(self, ctx: Any) -> None:
        """Open memory and disk, once SGLang's tree cache is built. `ctx`: as for the class."""
        pool = ctx.params.token_to_kv_pool_allocator.get_kvcache()
        layout, memory = describe_pool(pool, ctx.tp_worker)
        config = CacheConfig.from_environment()
        group = rank_group(ctx.params.tp_cache_group)
        self._namespace = engine_namespace(ctx.server_args, layout, config, group, BEGAN_S)
        self._kv = KVCache(
            layout,
            config,
            namespace=self._namespace,
            engine=memory,
            group=group,
            max_store_tokens=config.store_max_inflight * memory.num_slots,
        )
        self._store_decode = config.store_decode
        self._overlap = not ctx.server_args.disable_overlap_schedule
        self._trees = RequestTrees(self._namespace, self._kv.namespace_id)
        adapters = getattr(ctx.tp_worker.model_runner, "lora_manager", None)
        references = adapters.lora_refs.values() if adapters else ()
        self._adapters = adapter_identities(references, group, BEGAN_S)
        self._weights_era = 0
        self._weights_nonce = draw_nonce(group)
        self._tensors = tensors_at_start(ctx.server_args, BEGAN_S)
        self._holds_old_weights = False
        num_layers = self._kv.layout.num_layers
        self._layers = LayerWaits(self._layer_failed, stream_reader(pool), num_layers)
        self._is_single_rank = group.size == 1
        pool.register_layer_transfer_counter(self._layers)
        ctx.tp_worker.register_hicache_layer_transfer_counter(self._layers)
        self.token_to_kv_pool_host = HostPool(self._kv)

    # --- what the tree of a generation does in its own way

    def _hold(self, node: Any) -> Any:
        """Lock a node's way to the root; gives what `_let_go` takes."""
        raise NotImplementedError

    def _let_go(self, hold: Any) -> None:
        raise NotImplementedError

    def _load(
        self, state: RequestState, first: int, params: Any
    ) -> tuple[torch.Tensor, Any] | None:
        """Slots under load from position `first` on, and their node in the device's tree.

        None where memory or the device lacks room. `params` are those of `init_load_back`.
        """
        raise NotImplementedError

    def _reads(self, req: Any, load: Any) -> bool:
        """Whether a running request reads the slots of a load."""
        raise NotImplementedError

    def _load_failed(self, load: Any) -> None:
        """A copy failed after admission: its readers end with an error, nobody else reads it."""
        raise NotImplementedError

    # --- matching

    def _beyond_device(self, req: Any, key: Any, num_device_tokens: int) -> int:
        """A request was matched on the device: how many tokens more memory has, in pages."""
        self._matched_requests.add(req)
        state = self._state_for(req, key)
        self._last_matched = state
        if state is None:
            return 0
        match = self._kv.match(key.token_ids, state.tree, limit=len(key))
        return max(0, self._whole_pages(match.num_memory_tokens) - num_device_tokens)

    def _state_for(self, req: Any, key: Any) -> RequestState | None:
        if not is_served(req, key):
            set_state(req, None)
            return None
        tree = self._trees.of(key, self._adapters.get(req.lora_id))
        state = state_of(req)
        if state is None or state.tree != tree:
            state = RequestState(key, tree, era_of_kv(req, self._weights_era))
            set_state(req, state)
        state.key = key
        return state

    def _whole_pages(self, num_tokens: int) -> int:
        page_size: int = self.page_size  # type: ignore[attr-defined]
        return num_tokens // page_size * page_size

    # --- a request waits in the queue

    def prefetch_from_storage(self, request: Any, *_: Any, **__: Any) -> None:
        """A request queues; SGLang has just matched it. What only the disk has begins to move."""
        state = self._last_matched
        if state is None or state.prefetch is not None:
            return
        state.prefetch = self._kv.prefetch(state.key.token_ids, state.tree, limit=len(state.key))
        if state.prefetch is not None:
            state.memory_tokens_before = state.prefetch.tokens_before
            self._prefetching[rid_of(request)] = state

    def check_prefetch_progress(self, request: Any, *_: Any, **__: Any) -> bool:
        """Whether the request may be admitted now."""
        state = self._prefetching.get(rid_of(request))
        if state is None:
            return True
        if state.prefetch is not None and not state.prefetch.done:
            return False
        self._end_prefetch(rid_of(request))
        return True

    def pop_prefetch_loaded_tokens(self, request: Any) -> int:
        """0: `init_load_back` says how much came from the disk, once it is known what is loaded."""
        return 0

    def release_aborted_request(self, request: Any) -> None:
        """A queued request was aborted."""
        self._end_prefetch(rid_of(request))

    terminate_prefetch = release_aborted_request

    def _end_prefetch(self, rid: str) -> None:
        state = self._prefetching.pop(rid, None)
        if state is not None and state.prefetch is not None:
            self._kv.end_prefetch(state.prefetch)
            state.prefetch = None

    # --- a request is admitted

    def _load_promised(self, params: Any, first: int) -> tuple[torch.Tensor, Any] | None:
        """What the last match promised beyond the first tokens, which the device has.

        All of it or nothing: SGLang counts on what it is told now, and takes no part of it.
        """
        req, num_tokens = params.req, params.host_hit_length
        state = state_of(req)
        loaded = None if state is None else self._load(state, first, params)
        if state is None or loaded is None:
            req.host_hit_length = req.storage_hit_length = 0
            return None
        self._account(req, state, first, num_tokens)
        return loaded

    def _begin_load(
        self, state: RequestState, first: int, num_tokens: int
    ) -> tuple[torch.Tensor, Ticket] | None:
        """Slots under load; None where memory or the device lacks room."""
        self._draw_admission(state)
        key = state.key
        with self._kv.acquire(
            key.token_ids, state.tree, limit=len(key), admission=state.admission
        ) as handle:
            if handle.num_memory_tokens < first + num_tokens:
                return None
            slots = self._allocate(num_tokens)
            if slots is None:
                return None
            return slots, self._kv.load(handle, engine_slots(slots), first)

    def _draw_admission(self, state: RequestState) -> None:
        if not state.admission:
            state.admission = self._kv.planner.new_admission()

    def _allocate(self, num_tokens: int) -> torch.Tensor | None:
        allocator = self.token_to_kv_pool_allocator  # type: ignore[attr-defined]
        missing = num_tokens - allocator.available_size()
        if missing > 0:
            self.evict(EvictParams(num_tokens=missing))  # type: ignore[attr-defined]
        slots: torch.Tensor | None = allocator.alloc(num_tokens)
        return slots

    def _follow(self, load: LoadUnderWay, node: Any) -> None:
        """Keep a load's node locked until it has ended."""
        command_id = load.ticket.command_id
        self.ongoing_load_back[command_id] = self._hold(node)
        self._loads[command_id] = load

    def _account(self, req: Any, state: RequestState, first: int, num_tokens: int) -> None:
        """Of the loaded tokens, *storage* are those that the disk brought for this request."""
        before = state.memory_tokens_before
        req.host_hit_length = num_tokens
        req.storage_hit_length = 0
        if before is not None:
            start = max(before, first)
            req.storage_hit_length = max(0, first + num_tokens - start)
            req.storage_hit_start = start  # read from 0.5.20 on

    def ready_to_load_host_cache(self) -> int:
        """The index by which a new batch waits, layer by layer, for every load under way."""
        self._kv.note_launched()
        self._kv.begin_loads()
        return self._layers.open_batch([load.ticket for load in self._loads.values()])

    # --- a request has computed

    def _hear_of_loads(self, req: Any) -> bool:
        """Whether it is known, on all ranks, how the loads ended that a request read.

        Until then nothing that it computed may be kept; the next call keeps it.
        """
        if self._reads_loads_under_way(req):
            self.check_hicache_events()
        return not self._reads_loads_under_way(req)

    def _reads_loads_under_way(self, req: Any) -> bool:
        return any(self._reads(req, load) for load in self._loads.values())

    def _length_to_keep(self, req: Any, num_tokens: int) -> int:
        """Of a finished request whose KV has so many tokens: how many to keep, in pages."""
        if self._overlap:
            num_tokens -= 1  # the last token's KV belongs to a forward that may still run
        if not self._store_decode:
            num_tokens = min(num_tokens, len(req.origin_input_ids))
        return self._whole_pages(num_tokens)

    def _store(
        self,
        state: RequestState,
        tokens: Any,
        slots: SlotSource,
        num_tokens: int,
        *,
        tail: bool,
        is_computed: bool = False,
    ) -> Ticket | None:
        """Copy out what is not kept yet of the first `num_tokens`; the caller locks their slots."""
        if state.weights_era != self._weights_era:
            self._holds_old_weights = True  # SGLang keeps it, and others find it on the device
        if self._holds_old_weights or num_tokens <= 0:
            return None
        self._draw_admission(state)
        return self._kv.store(
            tokens,
            slots,
            state.tree,
            limit=num_tokens,
            tail=tail,
            admission=state.admission,
            is_computed=is_computed,
        )

    def _forget(self, req: Any) -> None:
        """A request gives back its slots; if it comes again, it begins anew."""
        self._end_prefetch(req.rid)
        set_state(req, None)
        forget_poison(req)

    # --- once a scheduler step

    def check_hicache_events(self) -> None:
        """Hear what ended on all ranks, unlock its slots, plan what follows."""
        for command, completion in self._kv.tick():
            if isinstance(command, Store):
                self._unlock(self.ongoing_write_through, command.command_id)
            elif isinstance(command, Load):
                load = self._loads.pop(command.command_id, None)
                if completion.status is not CompletionStatus.OK and load is not None:
                    self._load_failed(load)
                self._unlock(self.ongoing_load_back, command.command_id)

    def _unlock(self, ongoing: dict[int, Any], command_id: int) -> None:
        hold = ongoing.pop(command_id, None)
        if hold is not None:
            self._let_go(hold)

    def drain(self) -> None:
        """Wait until no copy touches the device. Every rank calls it at the same point.

        The number of rounds follows from what the ranks agree on, not from a clock.
        """
        for _ in range(_DRAIN_ROUNDS):
            if not self.ongoing_write_through and not self.ongoing_load_back:
                return
            self._kv.wait_for_completion(0.01)
            self.check_hicache_events()
        logger.warning("copies to or from the device have not ended in %d rounds", _DRAIN_ROUNDS)

    def _layer_failed(self, ticket: Ticket) -> None:
        """Within the forward. Several ranks must first agree, which they do at the next tick."""
        load = self._loads.get(ticket.command_id)
        if load is not None and self._is_single_rank:
            self._load_failed(load)

    # --- the whole cache

    def _clear_memory(self) -> None:
        """SGLang flushes: its tree is empty, so memory is emptied too. The disk stays."""
        for rid in list(self._prefetching):
            self._end_prefetch(rid)
        self._layers.reset()
        self._kv.clear(disk=False)
        self._holds_old_weights = False

    def clear_storage_backend(self) -> bool:
        """SGLang clears the storage backend: the disk is emptied too."""
        self._kv.clear(disk=True)
        return True

    def weights_changed(self, model_path: str | None) -> None:
        """From now on KV is another model's: what is kept stays where it is, under the old name.

        Args:
            model_path: Where the new weights came from, None if not from a folder, or not all.
        """
        self._weights_era += 1
        nonce = f"{self._weights_nonce}:{self._weights_era}"
        self._namespace = new_weights(self._namespace, model_path, nonce, self._tensors)
        self._trees = RequestTrees(self._namespace, self._kv.namespace_id)
        # SGLang flushes the device only if the update asked for it; until it does, nothing there is
        # of use to us
        self._holds_old_weights = self._num_device_tokens() > 0

    def _num_device_tokens(self) -> int:
        """Tokens that the device's tree holds."""
        num_evictable: int = self.evictable_size()  # type: ignore[attr-defined]
        num_protected: int = self.protected_size()  # type: ignore[attr-defined]
        return num_evictable + num_protected

    def release_host_resources(self) -> None:
        """SGLang shuts down."""
        self._kv.close()
