"""SGLang's radix cache with radixkv below it, for the interface of SGLang 0.5.15 to 0.5.20.

SGLang's own tree says what the device holds; it stays as it is. This class adds what is kept
outside the device:

    match_prefix              device hit, then what memory holds beyond it (`host_hit_length`)
    prefetch_from_storage     a request queues: disk → memory begins
    check_prefetch_progress   hold it back until that is done or late
    init_load_back            admitted: slots are taken, memory → device begins, all or nothing
    ready_to_load_host_cache  a batch is made: its layers wait for the loads under way
    cache_unfinished_req, cache_finished_req
                              what was computed is copied out, its slots locked meanwhile
    check_hicache_events      once a step: hear what ended, unlock, plan what follows
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, MatchPrefixParams, MatchResult
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey, TreeNode

from radixkv import (
    CacheConfig,
    CompletionStatus,
    DeviceSlots,
    EngineSlots,
    KVCache,
    Load,
    SlotSource,
    Store,
    Ticket,
)
from sglang_ext.failed_loads import (
    end_readers,
    forget_poison,
    is_poisoned,
    make_unreachable,
    reads,
    upper_end,
)
from sglang_ext.identity import draw_nonce, engine_namespace, new_weights
from sglang_ext.layer_waits import LayerWaits
from sglang_ext.pool import describe_pool, stream_reader
from sglang_ext.ranks import rank_group
from sglang_ext.requests import (
    RequestState,
    is_served,
    request_namespace,
    rid_of,
    set_state,
    slots_of,
    state_of,
)
from sglang_ext.support import check_model
from sglang_ext.surface import HiCacheSurface, HostPool

logger = logging.getLogger(__name__)

_DRAIN_ROUNDS = 1000  # of 10 ms at most


@dataclass(slots=True)
class _Load:
    """A load under way, and the tree node that its slots went into."""

    ticket: Ticket
    node: TreeNode
    num_tokens: int
    failed: bool = False

    @property
    def top(self) -> TreeNode:
        """The node, or where it begins if it was split since."""
        return upper_end(self.node, self.num_tokens)


class RadixKVCache(HiCacheSurface, RadixCache):  # type: ignore[misc]
    """One rank's tree cache.

    Args:
        ctx: SGLang's `TreeCacheBuildContext`.

    Raises:
        UnsupportedError: The model or the KV pool is not served.
        TierError: A tier could not be opened.
    """

    def __init__(self, ctx: Any) -> None:
        check_model(ctx)
        HiCacheSurface.__init__(self)
        RadixCache.__init__(self, ctx.params)
        pool = self.token_to_kv_pool_allocator.get_kvcache()
        layout, memory = describe_pool(pool, ctx.tp_worker)
        config = CacheConfig.from_environment()
        group = rank_group(ctx.params.tp_cache_group)
        self._namespace = engine_namespace(ctx.server_args, layout, config, group)
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
        self._trees: dict[tuple[Any, Any], int] = {}
        self._loads: dict[int, _Load] = {}
        self._matched_requests: weakref.WeakSet[Any] = weakref.WeakSet()
        self._num_unreachable = 0
        self._prefetching: dict[str, RequestState] = {}
        self._last_matched: RequestState | None = None
        self._weights_era = 0
        self._weights_nonce = draw_nonce(group)
        self._holds_old_weights = False
        self._layers = LayerWaits(self._layer_failed, stream_reader(pool))
        self._is_single_rank = group.size == 1
        pool.register_layer_transfer_counter(self._layers)
        ctx.tp_worker.register_hicache_layer_transfer_counter(self._layers)
        self.token_to_kv_pool_host = HostPool(self._kv)

    # --- matching

    def match_prefix(self, params: MatchPrefixParams) -> MatchResult:
        """Device hit as SGLang finds it; `host_hit_length`: what memory has beyond, in pages."""
        result = super().match_prefix(params)
        if params.req is None:
            return result
        self._matched_requests.add(params.req)
        state = self._matched(params.req, params.key)
        self._last_matched = state
        if state is None:
            return result
        match = self._kv.match(params.key.token_ids, state.tree, limit=len(params.key))
        host_tokens = self._whole_pages(match.num_memory_tokens) - len(result.device_indices)
        if host_tokens <= 0:
            return result
        return result._replace(host_hit_length=host_tokens)

    def _matched(self, req: Any, key: RadixKey) -> RequestState | None:
        if not is_served(req, key):
            set_state(req, None)
            return None
        name = (key.extra_key, getattr(key, "cache_salt", None))
        tree = self._trees.get(name)
        if tree is None:
            tree = self._kv.namespace_id(request_namespace(self._namespace, key))
            self._trees[name] = tree
        state = state_of(req)
        if state is None or state.tree != tree:
            state = RequestState(key, tree, self._weights_era)
            set_state(req, state)
        state.key = key
        return state

    def _whole_pages(self, num_tokens: int) -> int:
        page_size: int = self.page_size
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

    def init_load_back(self, params: Any) -> tuple[torch.Tensor, TreeNode]:
        """Take slots and begin to load what the last match promised beyond the device hit.

        All of it or nothing: after this call SGLang counts on it, and takes no part of it.
        """
        req = params.req
        state = state_of(req)
        parent = params.best_match_node
        first = len(req.prefix_indices)
        loaded = None
        if state is not None:
            loaded = self._load(state, parent, first, params.host_hit_length)
        if state is None or loaded is None:
            req.host_hit_length = req.storage_hit_length = 0
            return torch.empty((0,), dtype=torch.int64, device=self.device), parent
        self._account(req, state, first, params.host_hit_length)
        return loaded

    def _load(
        self, state: RequestState, parent: TreeNode, first: int, num_tokens: int
    ) -> tuple[torch.Tensor, TreeNode] | None:
        """Slots under load and their tree node; None where memory or the device lacks room."""
        rest = state.key[first : first + num_tokens]
        if rest.child_key(self.page_size) in parent.children:
            return None  # another request has loaded or computed it meanwhile
        if not state.admission:
            state.admission = self._kv.planner.new_admission()
        key = state.key
        with self._kv.acquire(
            key.token_ids, state.tree, limit=len(key), admission=state.admission
        ) as handle:
            if handle.num_memory_tokens < first + num_tokens:
                return None
            slots = self._allocate(num_tokens)
            if slots is None:
                return None
            ticket = self._kv.load(handle, _engine_slots(slots), first)
        node = self._insert_below(parent, rest, slots)
        self._lock(self.ongoing_load_back, ticket, node)
        self._loads[ticket.command_id] = _Load(ticket, node, num_tokens)
        return slots, node

    def _account(self, req: Any, state: RequestState, first: int, num_tokens: int) -> None:
        """Of the loaded tokens, *storage* are those that the disk brought for this request."""
        before = state.memory_tokens_before
        req.host_hit_length = num_tokens
        req.storage_hit_length = 0
        if before is not None:
            start = max(before, first)
            req.storage_hit_length = max(0, first + num_tokens - start)
            req.storage_hit_start = start  # read from 0.5.20 on

    def _allocate(self, num_tokens: int) -> torch.Tensor | None:
        allocator = self.token_to_kv_pool_allocator
        missing = num_tokens - allocator.available_size()
        if missing > 0:
            self.evict(EvictParams(num_tokens=missing))
        slots: torch.Tensor | None = allocator.alloc(num_tokens)
        return slots

    def _insert_below(self, parent: TreeNode, key: RadixKey, slots: torch.Tensor) -> TreeNode:
        node = TreeNode(priority=parent.priority)
        node.key = key
        node.value = slots
        node.parent = parent
        parent.children[key.child_key(self.page_size)] = node
        self.evictable_size_ += len(key)
        self._update_leaf_status(parent)
        self._update_leaf_status(node)
        if hasattr(self, "kv_events"):  # from 0.5.20 on
            self.kv_events.record_store(node)
        else:
            self._record_store_event(node)
        return node

    def ready_to_load_host_cache(self) -> int:
        """The index by which a new batch waits, layer by layer, for every load under way."""
        self._kv.begin_loads()
        return self._layers.open_batch([load.ticket for load in self._loads.values()])

    # --- a request has computed

    def cache_unfinished_req(self, req: Any, *args: Any, **kwargs: Any) -> None:
        """After each chunk of a prefill: keep its full chunks."""
        is_sure = self._hear_of_loads(req)
        if is_poisoned(req):
            self._go_on_uncached(req)
            return
        before = _protected_tokens(req)
        super().cache_unfinished_req(req, *args, **kwargs)
        self._kv.note_computed(_protected_tokens(req) - before)
        state = state_of(req)
        if state is None or self.disable or not is_sure:
            return

        def slots(first: int, last: int) -> EngineSlots:
            return _engine_slots(req.prefix_indices[first:last])

        tokens = req.full_untruncated_fill_ids
        ticket = self._store(state, tokens, slots, _protected_tokens(req), tail=False)
        if ticket is not None:
            self._lock(self.ongoing_write_through, ticket, req.last_node)

    def _hear_of_loads(self, req: Any) -> bool:
        """Whether it is known, on all ranks, how the loads ended that a request read.

        Until then nothing that it computed may be kept; the next call keeps it.
        """
        if self._reads_loads_under_way(req):
            self.check_hicache_events()
        return not self._reads_loads_under_way(req)

    def _reads_loads_under_way(self, req: Any) -> bool:
        return any(reads(req, load.top) for load in self._loads.values())

    def _go_on_uncached(self, req: Any) -> None:
        """The next chunk of a prefill builds on what the request has; the tree stays as it is."""
        num_tokens = len(req.get_fill_ids())
        slots = self.req_to_token_pool.req_to_token[slots_of(req).req_pool_idx, :num_tokens]
        req.prefix_indices = slots.to(dtype=torch.int64, copy=True)

    def cache_finished_req(self, req: Any, is_insert: bool = True, **kwargs: Any) -> None:
        """At the end: keep all that the device keeps, the decoded tokens too if configured."""
        is_sure = self._hear_of_loads(req)
        is_insert = is_insert and not is_poisoned(req)
        state = state_of(req)
        num_tokens = kwargs.get("kv_len_to_handle")
        if num_tokens is None:  # 0.5.15 does not say
            num_tokens = req.kv_committed_len
        super().cache_finished_req(req, is_insert=is_insert, **kwargs)
        self._end_prefetch(req.rid)
        set_state(req, None)
        forget_poison(req)
        is_kept = is_insert and is_sure and not self.disable_finished_insert
        if state is None or not is_kept or self.disable:
            return
        if self._overlap:
            num_tokens -= 1  # the last token's KV belongs to a forward that may still run
        if not self._store_decode:
            num_tokens = min(num_tokens, len(req.origin_input_ids))
        num_tokens = self._whole_pages(num_tokens)
        tokens = req.origin_input_ids + req.output_ids
        key = RadixKey(tokens, state.key.extra_key, limit=num_tokens, **_salt_of(state.key))
        found: list[MatchResult] = []

        def slots(first: int, last: int) -> EngineSlots:
            found.append(RadixCache.match_prefix(self, MatchPrefixParams(key=key)))
            return _engine_slots(found[0].device_indices[first:last])

        ticket = self._store(state, tokens, slots, num_tokens, tail=True)
        if ticket is not None:
            self._lock(self.ongoing_write_through, ticket, found[0].last_device_node)

    def _store(
        self, state: RequestState, tokens: Any, slots: SlotSource, num_tokens: int, *, tail: bool
    ) -> Ticket | None:
        """Copy out what is not kept yet of the first `num_tokens`; the caller locks their slots."""
        outdated = state.weights_era != self._weights_era or self._holds_old_weights
        if outdated or num_tokens == 0:
            return None
        if not state.admission:
            state.admission = self._kv.planner.new_admission()
        return self._kv.store(
            tokens, slots, state.tree, limit=num_tokens, tail=tail, admission=state.admission
        )

    def _lock(self, ongoing: dict[int, Any], ticket: Ticket, node: TreeNode) -> None:
        self.inc_lock_ref(node)
        ongoing[ticket.command_id] = node

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

    def _unlock(self, ongoing: dict[int, Any], command_id: int) -> None:
        node = ongoing.pop(command_id, None)
        if node is not None:
            self.dec_lock_ref(node)

    def _layer_failed(self, ticket: Ticket) -> None:
        """Within the forward. Several ranks must first agree, which they do at the next tick."""
        load = self._loads.get(ticket.command_id)
        if load is not None and self._is_single_rank:
            self._load_failed(load)

    def _load_failed(self, load: _Load) -> None:
        """A copy failed after admission: its readers end with an error, nobody else reads it."""
        if load.failed:
            return
        load.failed = True
        top = load.top
        end_readers(self._matched_requests, top)
        self._num_unreachable += 1
        make_unreachable(top, self.page_size, f"radixkv: not loaded, {self._num_unreachable}")

    # --- the whole cache

    def reset(self) -> None:
        """SGLang flushes: the device tree and memory are emptied, the disk stays."""
        super().reset()
        if not hasattr(self, "_kv"):  # called while the base class is built
            return
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
            model_path: Where the new weights came from, None if not from a folder.
        """
        self._weights_era += 1
        nonce = f"{self._weights_nonce}:{self._weights_era}"
        self._namespace = new_weights(self._namespace, model_path, nonce)
        self._trees.clear()
        # SGLang flushes the device only if the update asked for it; until it does, nothing there is
        # of use to us
        self._holds_old_weights = bool(self.total_size())

    def release_host_resources(self) -> None:
        """SGLang shuts down."""
        self._kv.close()


def _engine_slots(slots: torch.Tensor) -> EngineSlots:
    """Slots as a command takes them. Those on a GPU stay there: to read them is to wait for it."""
    slots = slots.to(dtype=torch.int64).contiguous()
    if slots.is_cuda:
        stream = torch.cuda.current_stream(slots.device).cuda_stream
        return DeviceSlots(slots.data_ptr(), len(slots), stream, owner=slots)
    array: NDArray[np.int64] = slots.numpy()
    return array


def _protected_tokens(req: Any) -> int:
    """Tokens of a request that the device tree has, its slots locked by the request."""
    num_tokens: int = slots_of(req).cache_protected_len
    return num_tokens


def _salt_of(key: RadixKey) -> dict[str, Any]:
    salt = getattr(key, "cache_salt", None)
    return {} if salt is None else {"cache_salt": salt}
