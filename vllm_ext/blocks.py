"""Which blocks requests have, which of them a step overwrites, and which stores still read them."""

from __future__ import annotations

from collections.abc import Iterable

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
        return [
            command_id
            for command_id, blocks in self._reading.items()
            if not blocks.isdisjoint(written)
        ]
