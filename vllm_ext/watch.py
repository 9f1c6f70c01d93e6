"""Which requests a step has to look at: most need nothing in most steps.

A request is looked at when it gets blocks. It does so before it is due, unless the blocks that it
has reach beyond that; those requests are watched, and looked at in every step, also where they run
but are not in it. So are requests with windows that are due as soon as they need blocks: vLLM takes
back what has left a window first, and may then find none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vllm_ext.blocks import BlockBook, BlockIds
from vllm_ext.requests import RequestState


class Watch:
    """Keeps up with vLLM's batch from step to step.

    Args:
        blocks: Is told of the blocks that requests get.
        requests: Those whose KV is kept, by id.
    """

    def __init__(self, blocks: BlockBook, requests: Mapping[str, RequestState]) -> None:
        self._blocks = blocks
        self._requests = requests
        self._watched: dict[str, RequestState] = {}  # in the order in which they are looked at

    def follow(self, output: Any) -> Iterator[tuple[str, RequestState, int]]:
        """Take in the blocks that requests get; gives those to look at, with the number of tokens
        that the steps before this one computed.

        A request that runs for the first time, or again, is not among them: what it found on the
        device may be another request's that is computed in this very step.

        Args:
            output: vLLM's `SchedulerOutput`.
        """
        found, self._watched = self._watched, {}
        for new in output.scheduled_new_reqs:
            found.pop(new.req_id, None)
            self._begin(new.req_id, new.block_ids, new.num_computed_tokens)
        cached = output.scheduled_cached_reqs
        for place, blocks in enumerate(cached.new_block_ids):
            if blocks is None:
                continue
            req_id = cached.req_ids[place]
            if req_id in cached.resumed_req_ids:
                found.pop(req_id, None)
                self._begin(req_id, blocks, cached.num_computed_tokens[place])
                continue
            state = self._requests.get(req_id)
            self._blocks.go_on(state, blocks)
            if state is not None:
                found[req_id] = state
        for req_id, state in found.items():
            if req_id in output.num_scheduled_tokens or state.is_running:
                yield req_id, state, state.request.num_computed_tokens
            else:
                self._watched[req_id] = state

    def keep(self, req_id: str, state: RequestState) -> None:
        """The next step looks at it, whether it gets blocks or not."""
        self._watched[req_id] = state

    def end(self, req_id: str) -> None:
        """It has ended."""
        self._watched.pop(req_id, None)

    def _begin(self, req_id: str, blocks: BlockIds, num_computed: int) -> None:
        """It runs for the first time, or again: the next step looks at it."""
        state = self._requests.get(req_id)
        self._blocks.begin(state, blocks, num_computed)
        if state is not None:
            state.due = 0
            self.keep(req_id, state)
