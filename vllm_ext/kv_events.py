"""What memory and disk hold, told in vLLM's own events: `--kv-events-config` publishes them.

A chunk is a block of `chunk_tokens` tokens, on the medium "CPU" while memory has it and on
"STORAGE" while the disk does, beside vLLM's own blocks on "GPU". Its key is no hash of its tokens;
it names the chunk until this engine ends. Tails are left out, since a block is full by definition.
When vLLM empties the device's cache it says `AllBlocksCleared`; what is told of here stays.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.distributed.kv_events import BlockRemoved, BlockStored

from radixkv import ChunkRemoved, ChunkStored, RadixIndex, take_events
from vllm_ext.identity import Namespaces

logger = logging.getLogger(__name__)

_MEDIA = {"memory": "CPU", "disk": "STORAGE"}
_MOST_EVENTS = 1 << 20  # between two steps; only what a very large disk brings at start is more


class TierEvents:
    """Reads an index's events for vLLM.

    Args:
        index: Records events from now on.
        namespaces: Say whose a tree is. A tree that came from the disk, and that no request has
            asked for yet, is not told of.
    """

    def __init__(self, index: RadixIndex, namespaces: Namespaces) -> None:
        self._index = index
        self._namespaces = namespaces
        self._next_sequence = 1
        index.record_events(_MOST_EVENTS)

    def take(self) -> list[Any]:
        """What happened since the last call, in order; what went on in a row is one event."""
        told: list[Any] = []
        for event in take_events(self._index):
            if event.sequence != self._next_sequence:
                logger.warning("events were lost: whoever follows them knows too little or much")
            self._next_sequence = event.sequence + 1
            if isinstance(event, ChunkStored):
                self._add_stored(told, event)
            else:
                self._add_removed(told, event)
        return told

    def _add_stored(self, told: list[Any], event: ChunkStored) -> None:
        origin = self._namespaces.origin_of(event.namespace)
        if origin is None or len(event.tokens) < self._index.chunk_tokens:
            return
        medium, tokens = _MEDIA[event.tier], event.tokens.tolist()
        extra_keys = origin.extra_keys(is_first=event.parent is None)
        last = told[-1] if told and isinstance(told[-1], BlockStored) else None
        if last and last.medium == medium and last.block_hashes[-1] == event.parent:
            last.block_hashes.append(event.key)
            last.token_ids.extend(tokens)
            last.extra_keys.append(extra_keys)
            return
        told.append(
            BlockStored(
                block_hashes=[event.key],
                parent_block_hash=event.parent,
                token_ids=tokens,
                block_size=self._index.chunk_tokens,
                lora_id=None,
                medium=medium,
                lora_name=origin.lora_name,
                extra_keys=[extra_keys],
                group_idx=origin.group,
            )
        )

    def _add_removed(self, told: list[Any], event: ChunkRemoved) -> None:
        if event.num_tokens < self._index.chunk_tokens:
            return
        medium = _MEDIA[event.tier]
        last = told[-1] if told else None
        if isinstance(last, BlockRemoved) and last.medium == medium:
            last.block_hashes.append(event.key)
        else:
            told.append(BlockRemoved(block_hashes=[event.key], medium=medium))
