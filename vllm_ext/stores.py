"""Which stores a step begins: of what the steps before it computed, and of requests that end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixkv import Planner
from vllm_ext.blocks import BlockBook
from vllm_ext.layout import blocks_between, slots_in
from vllm_ext.requests import GroupState, RequestState
from vllm_ext.settings import EngineSettings
from vllm_ext.watch import Watch

# Each store takes as long as what vLLM does in a step for two requests.
_MOST_STORES = 16  # begin in one step
_STEPS_A_STORE = 2  # for each store of decoded tokens, however many requests run


class _GoneError(Exception):
    """Blocks that a store would read are no longer the request's."""


class StorePlanner:
    """Plans the stores of one engine.

    Args:
        planner: Issues them.
        settings: Of the engine.
        blocks: Is told of the blocks that requests get, and of those that stores read.
        requests: Those whose KV is kept, by id.
    """

    def __init__(
        self,
        planner: Planner,
        settings: EngineSettings,
        blocks: BlockBook,
        requests: Mapping[str, RequestState],
    ) -> None:
        self._planner = planner
        self._stores_decoded = settings.config.store_decode
        self._block_tokens = settings.block_tokens
        self._chunk_tokens = settings.config.chunk_tokens
        self._blocks = blocks
        self._requests = requests
        self._watch = Watch(blocks, requests)
        self._decoded_tokens = self._chunk_tokens  # that are stored at once
        self._last_store = 0  # command id of the last that the step may have

    def plan(self, output: Any) -> int:
        """A step is scheduled: store what the steps before it computed.

        Args:
            output: vLLM's `SchedulerOutput`.

        Returns:
            Tokens of prompts that the step computes.
        """
        for req_id in output.preempted_req_ids or ():  # since the last plan
            if req_id in self._requests:
                self._store_before_it_goes(self._requests[req_id])
        scheduled = output.num_scheduled_tokens
        self._decoded_tokens = self._chunk_tokens * max(
            1, -(-_STEPS_A_STORE * len(scheduled) // self._chunk_tokens)
        )
        self._last_store = self._planner.num_issued + _MOST_STORES
        num_prompt_tokens = 0
        for new in output.scheduled_new_reqs:
            num_prompt_tokens += scheduled[new.req_id]
            if new.req_id in self._requests:
                self._requests[new.req_id].admit(self._planner)
        for req_id, state, num_computed in self._watch.follow(output):
            if num_computed < state.request.num_prompt_tokens:
                num_prompt_tokens += scheduled.get(req_id, 0)
            self._look_at(state, num_computed)
            if state.is_due_within(len(state.groups[0].blocks) * self._block_tokens):
                self._watch.keep(req_id, state)
        return num_prompt_tokens

    def end(self, state: RequestState, block_ids: Iterable[list[int]]) -> None:
        """A request has ended, its blocks are about to be freed: store its rest."""
        self._watch.end(state.request.request_id)
        if not state.is_complete:
            return
        for group, ids in zip(state.groups, block_ids, strict=False):
            if group.window is None:
                group.blocks = ids
            group.stored_tokens = 0  # what was dropped or failed meanwhile is tried once more
            if group.blocks:
                self._store(state, group, state.request.num_computed_tokens, tail=True)

    def _look_at(self, state: RequestState, num_computed: int) -> None:
        """Store what is due of a request; where this step stores enough, the next one does."""
        state.computed_tokens = state.without_placeholders(num_computed)
        if num_computed < state.due:
            return
        for group in state.groups:
            is_due = state.computed_tokens >= self._store_due(state, group)
            if is_due and self._takes_store(group):
                self._store(state, group, num_computed, tail=False)
        self._blocks.note_held(state, num_computed)
        state.due = self._due(state, num_computed)

    def _takes_store(self, group: GroupState) -> bool:
        """Whether this step may have another store. What leaves a window cannot wait."""
        has_room = group.window is not None or self._planner.num_issued < self._last_store
        return has_room and self._planner.takes_stores

    def _store_before_it_goes(self, state: RequestState) -> None:
        """A request was preempted: this plan is the last that can store what it had computed."""
        for group in state.groups:
            if state.computed_tokens >= group.stored_tokens + self._chunk_tokens:
                self._store(state, group, state.computed_tokens, tail=False)
        state.computed_tokens = 0

    def _store_due(self, state: RequestState, group: GroupState) -> int:
        """Tokens that must have been computed before a group's next store.

        What is decoded is stored several chunks at a time where many requests run. A request that
        ends or is preempted before is stored all the same.
        """
        next_chunk = group.stored_tokens + self._chunk_tokens
        is_prompt = next_chunk <= state.request.num_prompt_tokens
        if not state.writes or not (is_prompt or self._stores_decoded):
            return sys.maxsize
        if is_prompt or group.window is not None:
            return next_chunk
        return group.stored_tokens + self._decoded_tokens

    def _due(self, state: RequestState, num_computed: int) -> int:
        """Tokens that must have been computed before a request needs to be looked at again."""
        if num_computed < state.request.num_prompt_tokens:
            return 0
        return min(
            min(self._store_due(state, group), group.held_until(self._block_tokens))
            for group in state.groups
        )

    def _store(
        self, state: RequestState, group: GroupState, num_computed: int, *, tail: bool
    ) -> None:
        """Keep what is not kept yet of the tokens that are computed: full chunks, or all blocks."""
        state.take_in_tokens()
        num_tokens = state.known_tokens(num_computed)
        if not self._stores_decoded:
            num_tokens = min(num_tokens, state.request.num_prompt_tokens)
        if not tail:
            num_tokens = num_tokens // self._chunk_tokens * self._chunk_tokens
        if not state.writes or num_tokens <= group.stored_tokens:
            return

        read: list[int] = []

        def slots(first: int, last: int) -> NDArray[np.int64]:
            if first < group.first_held:
                raise _GoneError
            read.extend(blocks_between(group.blocks, self._block_tokens, first, last))
            return slots_in(read, self._block_tokens, first, last)

        try:
            store = self._planner.store(
                state.tokens,
                slots,
                time=state.admit(self._planner),
                namespace=group.tree,
                limit=num_tokens,
                tail=tail,
            )
        except _GoneError:
            store = None
        if store is not None:
            self._blocks.read(store, read)
        group.stored_tokens = num_tokens
