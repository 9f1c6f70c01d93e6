"""Which blocks requests have, which of them a step overwrites, and which stores still read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from radixkv import Store
from vllm_ext.requests import RequestState

BlockIds = Iterable[list[int]]
"""Of one request, for each group of layers; vLLM's blocks are numbered through all groups."""


class BlockBook:
    """Keeps up with vLLM's blocks from step to step.

    Args:
        block_tokens: Tokens in a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._reading: dict[int, set[int]] = {}  # command id of a store → blocks
        self._written: set[int] = set()  # by the step that is being scheduled

    def begin(self, state: RequestState | None, blocks: BlockIds, num_computed: int) -> None:
        """A request runs for the first time, or again, in these blocks."""
        for ids in blocks:
            self.overwrite(ids, num_computed)
        if state is not None:
            for group, ids in zip(state.groups, blocks, strict=True):
                group.blocks = list(ids)
            self.note_held(state, num_computed)

    def go_on(self, state: RequestState | None, blocks: BlockIds | None) -> None:
        """A running request gets these as well."""
        if blocks is None:
            return
        for ids in blocks:
            self._written.update(ids)
        if state is not None:
            for group, ids in zip(state.groups, blocks, strict=True):
                group.blocks.extend(ids)

    def note_held(self, state: RequestState, num_computed: int) -> None:
        """What has left a window when a step is scheduled may be overwritten by that step: its own
        plan can store it still, the next one cannot.
        """
        for group in state.groups:
            group.first_held = group.needed_from(num_computed, self._block_tokens)

    def overwrite(self, block_ids: list[int], first_token: int) -> None:
        """The step writes these from a position of their request on."""
        self._written.update(block_ids[first_token // self._block_tokens :])

    def read(self, command: Store, block_ids: Iterable[int]) -> None:
        """A store begins, which reads these."""
        self._reading[command.command_id] = set(block_ids)

    def end(self, command: Store) -> None:
        """A store has ended."""
        del self._reading[command.command_id]

    @property
    def stores(self) -> Iterable[int]:
        """Command ids of those under way."""
        return self._reading

    def take_awaited(self) -> list[int]:
        """The step is scheduled: the stores that read what it overwrites."""
        written, self._written = self._written, set()
        return self.readers_of(written)

    def readers_of(self, block_ids: Collection[int]) -> list[int]:
        """The stores that read any of these."""
        if not block_ids:
            return []
        return [
            command_id
            for command_id, blocks in self._reading.items()
            if not blocks.isdisjoint(block_ids)
        ]


class Allocations:
    """The blocks that requests are given in a step, and which of them another connector fills.

    Of several connectors in vLLM's `MultiConnector` one loads for a request; the others are told
    that they do not, but not that somebody does. It shows in where the request computes from: not
    where the device's own blocks end, or not at all in this step.

    Args:
        block_tokens: Tokens in a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._matched = ("", 0)  # the request that was matched last, and what the device has of it
        self._given: dict[str, tuple[int, Any]] = {}

    def matched(self, request: Any, num_local: int) -> None:
        """A request is asked about, of which the device has so many tokens."""
        self._matched = (request.request_id, num_local)

    def given(self, request: Any, blocks: Any) -> None:
        """A request has blocks, into which this connector loads nothing."""
        if request.num_computed_tokens:
            return  # it goes on in blocks that it had
        request_id, num_local = self._matched
        known = num_local if request_id == request.request_id else 0
        self._given[request.request_id] = (known, blocks)

    def take_filled_by_others(self, output: Any) -> list[int]:
        """The step is scheduled: the blocks that another connector loads into, in it or behind it.

        Args:
            output: vLLM's `SchedulerOutput`.
        """
        if not self._given:
            return []
        given, self._given = self._given, {}
        cached = output.scheduled_cached_reqs
        begins = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        begins |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        found: list[int] = []
        for request_id, (num_local, blocks) in given.items():
            if begins.get(request_id) != num_local:
                for ids in blocks.get_block_ids():
                    found.extend(ids[num_local // self._block_tokens :])
        return found
