"""SGLang's unified radix cache with radixkv below it, for the interface of SGLang 0.5.21 alone.

As `unified_cache.py`, but a request that finished is inserted by a call of its own, and prefixes
are handed around as slots, not as lengths.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams, MatchResult
from sglang.srt.mem_cache.radix_cache import RadixKey

from radixkv import EngineSlots
from sglang_ext.pool import engine_slots
from sglang_ext.requests import state_of
from sglang_ext.unified_cache import UnifiedKVCache


class InsertReqKVCache(UnifiedKVCache):
    """One rank's tree cache. Arguments and errors as for `UnifiedKVCache`."""

    def _device_tokens(self, result: MatchResult) -> int:
        return len(result.device_indices)

    def _match_tree(self, params: MatchPrefixParams) -> MatchResult:
        result = self.tree_core.match_prefix(params)
        self._apply_cache_actions(result.cache_actions)
        return result

    def path_device_indices(self, node: int) -> torch.Tensor:
        """The device's slots from the root to a node."""
        slots: torch.Tensor
        slots = self.tree_core.collect_full_device_indices(node, self.root_node_handle())
        return slots

    def init_load_back(self, params: Any) -> tuple[torch.Tensor, int]:
        """As `UnifiedKVCache.init_load_back`; gives the slots themselves."""
        req = params.req
        loaded = self._load_promised(params, len(req.prefix_indices))
        if loaded is None:
            return torch.empty((0,), dtype=torch.int64, device=self.device), req.last_node
        return loaded

    def cache_unfinished_req(self, req: Any, *args: Any, **kwargs: Any) -> None:
        """After each chunk of a prefill: keep its full chunks."""
        is_sure = self._hear_of_loads(req)
        if self._may_not_insert(req):
            row = self.req_to_token_pool.req_to_token[req.kv.req_pool_idx]
            slots = row[: len(req.get_fill_ids())]
            req.prefix_indices = slots.to(dtype=torch.int64, copy=True)
            return
        before = req.kv.cache_protected_len
        super().cache_unfinished_req(req, *args, **kwargs)
        num_tokens = req.kv.cache_protected_len
        self._kv.note_computed(num_tokens - before)
        if is_sure:
            self._store_request(req, num_tokens)

    def insert_req(self, req: Any, *, up_to: int, **kwargs: Any) -> None:
        """At the end: keep all that the device keeps, the decoded tokens too if configured."""
        is_sure = self._hear_of_loads(req)
        if self._may_not_insert(req):
            return
        super().insert_req(req, up_to=up_to, **kwargs)
        state = state_of(req)
        if state is None or self.disable or not is_sure:
            return
        num_tokens = self._length_to_keep(req, up_to)
        tokens = req.origin_input_ids + req.output_ids
        name = {"extra_key": req.extra_key, "cache_salt": req.cache_salt}
        key = RadixKey(tokens, limit=num_tokens, **name)
        found: list[MatchResult] = []

        def slots(first: int, last: int) -> EngineSlots:
            # The request's own may have been freed, where the tree had them already.
            found.append(self._match_tree(MatchPrefixParams(key=key)))
            return engine_slots(found[0].device_indices[first:last])

        # SGLang has heard of the step that ended it; what a step ahead writes is not kept.
        ticket = self._store(state, tokens, slots, num_tokens, tail=True, is_computed=True)
        if ticket is not None:
            node = found[0].last_device_node
            self.ongoing_write_through[ticket.command_id] = self._hold(node)
