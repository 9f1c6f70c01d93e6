"""SGLang's radix cache with radixkv below it, for the interface of SGLang 0.5.15 to 0.5.20.

What any generation has in common is in `outside.py`. Here is SGLang's tree of nodes, and

    match_prefix              device hit, then what memory holds beyond it (`host_hit_length`)
    init_load_back            admitted: slots are taken, memory → device begins, all or nothing
    cache_unfinished_req, cache_finished_req
                              what was computed is copied out, its slots locked meanwhile
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams, MatchResult
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey, TreeNode

from radixkv import EngineSlots
from sglang_ext.failed_loads import end_with_error, is_poisoned
from sglang_ext.outside import LoadUnderWay, OutsideDevice
from sglang_ext.pool import engine_slots
from sglang_ext.radix_nodes import is_at_or_below, make_unreachable, reads, upper_end
from sglang_ext.requests import RequestState, slots_of, state_of
from sglang_ext.support import check_model


@dataclass(slots=True, kw_only=True)
class _Load(LoadUnderWay):
    """A load under way, and the tree node that its slots went into."""

    node: TreeNode
    num_tokens: int

    @property
    def top(self) -> TreeNode:
        """The node, or where it begins if it was split since."""
        return upper_end(self.node, self.num_tokens)


class RadixKVCache(OutsideDevice, RadixCache):  # type: ignore[misc]
    """One rank's tree cache.

    Args:
        ctx: SGLang's `TreeCacheBuildContext`.

    Raises:
        UnsupportedError: The model or the KV pool is not served.
        TierError: A tier could not be opened.
    """

    def __init__(self, ctx: Any) -> None:
        check_model(ctx)
        OutsideDevice.__init__(self)
        RadixCache.__init__(self, ctx.params)
        self._open(ctx)
        self._num_unreachable = 0

    def _hold(self, node: TreeNode) -> TreeNode:
        self.inc_lock_ref(node)
        return node

    def _let_go(self, hold: TreeNode) -> None:
        self.dec_lock_ref(hold)

    # --- matching

    def match_prefix(self, params: MatchPrefixParams) -> MatchResult:
        """Device hit as SGLang finds it; `host_hit_length`: what memory has beyond, in pages."""
        result = super().match_prefix(params)
        if params.req is None:
            return result
        num_tokens = self._beyond_device(params.req, params.key, len(result.device_indices))
        return result._replace(host_hit_length=num_tokens) if num_tokens else result

    # --- a request is admitted

    def init_load_back(self, params: Any) -> tuple[torch.Tensor, TreeNode]:
        """Take slots and begin to load what the last match promised beyond the device hit."""
        loaded = self._load_promised(params, len(params.req.prefix_indices))
        if loaded is None:
            nothing = torch.empty((0,), dtype=torch.int64, device=self.device)
            return nothing, params.best_match_node
        return loaded

    def _load(
        self, state: RequestState, first: int, params: Any
    ) -> tuple[torch.Tensor, TreeNode] | None:
        parent, num_tokens = params.best_match_node, params.host_hit_length
        rest = state.key[first : first + num_tokens]
        if rest.child_key(self.page_size) in parent.children:
            return None  # another request has loaded or computed it meanwhile
        begun = self._begin_load(state, first, num_tokens)
        if begun is None:
            return None
        slots, ticket = begun
        node = self._insert_below(parent, rest, slots)
        self._follow(_Load(ticket=ticket, node=node, num_tokens=num_tokens), node)
        return slots, node

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

    # --- a request has computed

    def cache_unfinished_req(self, req: Any, chunked: bool = False, **kwargs: Any) -> None:
        """After each chunk of a prefill: keep its full chunks.

        `chunked`: more of the prefill follows. SGLang says so when the chunk's forward may still
        run; otherwise it has heard of the forward's end.
        """
        is_sure = self._hear_of_loads(req)
        if is_poisoned(req):
            self._go_on_uncached(req)
            return
        before = _protected_tokens(req)
        super().cache_unfinished_req(req, chunked=chunked, **kwargs)
        self._kv.note_computed(_protected_tokens(req) - before)
        state = state_of(req)
        # Where the tree had a part of it from another's load, the request has that one's slots now.
        is_sure = is_sure and not self._is_under_load(req.last_node)
        if state is None or self.disable or not is_sure:
            return

        def slots(first: int, last: int) -> EngineSlots:
            return engine_slots(req.prefix_indices[first:last])

        tokens = req.full_untruncated_fill_ids
        ticket = self._store(
            state, tokens, slots, _protected_tokens(req), tail=False, is_computed=not chunked
        )
        if ticket is not None:
            self.ongoing_write_through[ticket.command_id] = self._hold(req.last_node)

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
        self._forget(req)
        is_kept = is_insert and is_sure and not self.disable_finished_insert
        if state is None or not is_kept or self.disable:
            return
        num_tokens = self._length_to_keep(req, num_tokens)
        tokens = req.origin_input_ids + req.output_ids
        key = RadixKey(tokens, state.key.extra_key, limit=num_tokens, **_salt_of(state.key))
        if self._loads and self._is_under_load(self._find(key).last_device_node):
            return  # the tree had a part of it from another's load
        found: list[MatchResult] = []

        def slots(first: int, last: int) -> EngineSlots:
            found.append(self._find(key))
            return engine_slots(found[0].device_indices[first:last])

        # SGLang has heard of the step that ended it; what a step ahead writes is not kept.
        ticket = self._store(state, tokens, slots, num_tokens, tail=True, is_computed=True)
        if ticket is not None:
            node = found[0].last_device_node
            self.ongoing_write_through[ticket.command_id] = self._hold(node)

    def _find(self, key: RadixKey) -> MatchResult:
        """What the device has, for no request."""
        return RadixCache.match_prefix(self, MatchPrefixParams(key=key))

    def _is_under_load(self, node: TreeNode) -> bool:
        """Whether it is not known yet, on all ranks, how a load on a node's way ended."""
        return any(is_at_or_below(node, load.top) for load in self._loads.values())

    # --- a load failed

    def _reads(self, req: Any, load: _Load) -> bool:
        return reads(req, load.top)

    def _load_failed(self, load: _Load) -> None:
        if load.failed:
            return
        load.failed = True
        top = load.top
        for req in self._matched_requests:
            if reads(req, top):
                end_with_error(req)
        self._num_unreachable += 1
        make_unreachable(top, self.page_size, f"radixkv: not loaded, {self._num_unreachable}")

    # --- the whole cache

    def reset(self) -> None:
        """SGLang flushes: the device tree and memory are emptied, the disk stays."""
        super().reset()
        if hasattr(self, "_kv"):  # not yet while the base class is built
            self._clear_memory()


def _protected_tokens(req: Any) -> int:
    """Tokens of a request that the device tree has, its slots locked by the request."""
    num_tokens: int = slots_of(req).cache_protected_len
    return num_tokens


def _salt_of(key: RadixKey) -> dict[str, Any]:
    salt = getattr(key, "cache_salt", None)
    return {} if salt is None else {"cache_salt": salt}
