"""SGLang's unified radix cache with radixkv below it, for the interface of SGLang 0.5.22 and later.

What any generation has in common is in `outside.py`. SGLang's tree lies behind ids of nodes here
(in Rust, as a rule), so all goes through SGLang's own calls:

    match_prefix     device hit, then what memory holds beyond it (`host_hit_length`)
    init_load_back   admitted: slots are taken, inserted, and memory → device begins, all or nothing
    checkpoint       after each chunk of a prefill and at the end: what was computed is copied out
    on_release       a request gives back its slots

SGLang's own host pool is left out: `init_hicache` makes none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from sglang.srt.mem_cache.base_prefix_cache import (
    DecLockRefParams,
    EvictParams,
    IncLockRefResult,
    InsertParams,
    MatchPrefixParams,
    MatchResult,
)
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from radixkv import EngineSlots
from sglang_ext.bad_prefixes import Span
from sglang_ext.failed_loads import end_with_error, is_poisoned
from sglang_ext.outside import LoadUnderWay, OutsideDevice
from sglang_ext.pool import engine_slots
from sglang_ext.requests import RequestState, state_of
from sglang_ext.sessions import Sessions
from sglang_ext.support import check_model
from sglang_ext.surface import UnifiedController


@dataclass(slots=True, kw_only=True)
class _Load(LoadUnderWay):
    """A load under way, and which prefixes lead to its slots."""

    span: Span


class _Hold(NamedTuple):
    """A locked node and SGLang's receipt for the lock."""

    node_id: int
    receipt: DecLockRefParams


class UnifiedKVCache(OutsideDevice, UnifiedRadixCache):  # type: ignore[misc]
    """One rank's tree cache.

    Args:
        ctx: SGLang's `TreeCacheBuildContext`.
        params: Its `params`, with the tree's components filled in.

    Raises:
        UnsupportedError: The model or the KV pool is not served.
        TierError: A tier could not be opened.
    """

    def __init__(self, ctx: Any, params: Any) -> None:
        check_model(ctx)
        OutsideDevice.__init__(self)
        UnifiedRadixCache.__init__(self, params)
        self._open(ctx)
        self._bad_prefixes: list[Span] = []
        self._sessions = Sessions(self)
        self.cache_controller = UnifiedController(self._layers)

    def init_hicache(self, *_: Any) -> None:
        """SGLang would build a host pool here; memory is radixkv's."""

    def _hold(self, node: int) -> _Hold:
        return _Hold(node, self.inc_lock_ref(node).to_dec_params())

    def _let_go(self, hold: _Hold) -> None:
        self.dec_lock_ref(*hold)

    def inc_host_lock_ref(self, node_id: int) -> IncLockRefResult:
        """Nothing of SGLang's is on the host. A load is pinned when it begins."""
        return IncLockRefResult(node_id=node_id)

    def dec_host_lock_ref(self, node_id: int, params: DecLockRefParams) -> None:
        """As `inc_host_lock_ref`."""

    def get_last_hash_value(self, node_id: int) -> None:
        """SGLang asks for a page hash when a request queues; radixkv finds by tokens."""

    # --- matching

    def match_prefix(self, params: MatchPrefixParams) -> MatchResult:
        """Device hit as SGLang finds it; `host_hit_length`: what memory has beyond, in pages."""
        has_kv = self._sessions.has_kv_for(params.req)
        bad = None if has_kv else self._bad_prefix_of(params.key)
        if bad is not None:
            return self._match_before(bad, params)
        result = super().match_prefix(params)
        if params.req is None:
            return result
        num_tokens = self._beyond_device(params.req, params.key, self._device_tokens(result))
        return result._replace(host_hit_length=num_tokens) if num_tokens else result

    def _device_tokens(self, result: MatchResult) -> int:
        num_tokens: int = result.device_prefix_len
        return num_tokens

    # --- a request is admitted

    def init_load_back(self, params: Any) -> tuple[int, int]:
        """Take slots and begin to load what the last match promised beyond the device hit."""
        loaded = self._load_promised(params, params.req.prefix_len)
        return (0, params.req.last_node) if loaded is None else (len(loaded[0]), loaded[1])

    def _load(
        self, state: RequestState, first: int, params: Any
    ) -> tuple[torch.Tensor, int] | None:
        key = state.key[: first + params.host_hit_length]
        on_device = self._match_tree(MatchPrefixParams(key=key))
        if self._device_tokens(on_device) != first:
            return None  # another request has loaded or computed it meanwhile
        begun = self._begin_load(state, first, len(key) - first)
        if begun is None:
            return None
        slots, ticket = begun
        prefix = self.path_device_indices(params.best_match_node)[:first]
        inserted = self.insert(
            InsertParams(
                key=key,
                value=torch.cat([prefix, slots]),
                prev_prefix_len=first,
                priority=params.req.priority or 0,
            )
        )
        span = Span.of(key, first, self.page_size)
        node: int = inserted.last_device_node
        self._follow(_Load(ticket=ticket, span=span), node)
        return slots, node

    # --- a request has computed

    def checkpoint(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
        """Keep full chunks while a prefill runs; at the end all that the device keeps."""
        is_sure = self._hear_of_loads(req)
        if self._may_not_insert(req):
            return
        before = req.kv.cache_protected_len
        super().checkpoint(req, up_to=up_to, **kwargs)
        num_tokens = req.kv.cache_protected_len
        if req.finished():
            num_tokens = min(num_tokens, self._length_to_keep(req, up_to))
        else:
            self._kv.note_computed(num_tokens - before)
        if is_sure:
            self._store_request(req, num_tokens)

    def _store_request(self, req: Any, num_tokens: int) -> None:
        """Copy out the first tokens of a request; their slots are the tree's by now.

        Of a prefill that goes on SGLang keeps each chunk when its forward may still run, and counts
        the chunks whose end it has not heard. All else it keeps after it has heard.
        """
        state = state_of(req)
        if state is None or self.disable:
            return
        row = self.req_to_token_pool.req_to_token[req.kv.req_pool_idx]

        def slots(first: int, last: int) -> EngineSlots:
            return engine_slots(row[first:last])

        tokens = req.full_untruncated_fill_ids
        ticket = self._store(
            state,
            tokens,
            slots,
            num_tokens,
            tail=bool(req.finished()),
            is_computed=req.inflight_middle_chunks <= 0,
        )
        if ticket is not None:
            self.ongoing_write_through[ticket.command_id] = self._hold(req.last_node)

    def on_release(self, req: Any, **kwargs: Any) -> None:
        """A request, finished or retracted, has given back its slots."""
        super().on_release(req, **kwargs)
        self._forget(req)

    # --- a load failed

    def _reads(self, req: Any, load: _Load) -> bool:
        return load.span.may_be_read_by(req)

    def _load_failed(self, load: _Load) -> None:
        if load.failed:
            return
        load.failed = True
        for req in self._matched_requests:
            if load.span.may_be_read_by(req):
                end_with_error(req)
        self._bad_prefixes.append(load.span)
        self._sessions.doubt_all(self._matched_requests)

    def _match_before(self, bad: Span, params: MatchPrefixParams) -> MatchResult:
        """Device hit that ends before what could not be loaded; nothing is loaded beyond it."""
        if params.req is not None:
            self._matched_requests.add(params.req)
            self._last_matched = None
        return super().match_prefix(replace(params, key=params.key[: bad.first]))

    def _bad_prefix_of(self, key: Any) -> Span | None:
        on_way = [span for span in self._bad_prefixes if span.is_on_way_of(key)]
        return min(on_way, key=lambda span: span.first, default=None)

    def _may_not_insert(self, req: Any) -> bool:
        is_bad = any(span.may_be_read_by(req) for span in self._bad_prefixes)
        return is_bad or is_poisoned(req)

    def check_hicache_events(self) -> None:
        """Once a step: hear what ended, and evict what could not be loaded once nobody holds it."""
        super().check_hicache_events()
        if self._bad_prefixes:
            self.evict(EvictParams(num_tokens=self.evictable_size()))
            self._bad_prefixes = [span for span in self._bad_prefixes if self._is_there(span)]

    def _is_there(self, span: Span) -> bool:
        extra_key, cache_salt = span.name
        key = RadixKey(span.tokens, extra_key, cache_salt=cache_salt)
        return self._device_tokens(self._match_tree(MatchPrefixParams(key=key))) > span.first

    # --- the whole cache

    def reset(self) -> None:
        """SGLang flushes: the device tree and memory are emptied, the disk stays."""
        super().reset()
        if hasattr(self, "_bad_prefixes"):  # not yet while the base class is built
            self._bad_prefixes.clear()
            self._clear_memory()
