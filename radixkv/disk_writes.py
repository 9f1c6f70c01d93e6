"""What is written to the disk, of the chunks that memory has, and what is cleared there."""

from __future__ import annotations

import numpy as np

from radixkv.commands import NO_EXTENT, ChunkArray, Clear, Completion, Spill
from radixkv.counters import PlannerCounters
from radixkv.index import RadixIndex
from radixkv.ledger import Ledger
from radixkv.pause import Pause
from radixkv.room import bytes_of

# One command to disk: of large chunks so many, of small ones as many as that is worth writing.
_SPILL_CHUNKS = 16
_SPILL_BYTES = 16 << 20


class DiskWrites:
    """Copies to disk what memory has and the disk lacks, ahead of eviction.

    Args:
        index: Where the chunks are.
        ledger: Where commands are issued.
        counters: Of the planner.
        pause: When the disk may be used; None without a disk tier.
        chunk_bytes: Of one full chunk.
        window_bytes: May be on their way at a time.

    Attributes:
        next_sequence: The number of the next chunk that is written.
    """

    def __init__(
        self,
        index: RadixIndex,
        ledger: Ledger,
        counters: PlannerCounters,
        pause: Pause | None,
        chunk_bytes: int,
        window_bytes: int,
    ) -> None:
        self.next_sequence = 1
        self._index = index
        self._ledger = ledger
        self._counters = counters
        self._pause = pause
        self._max_chunks = max(_SPILL_CHUNKS, _SPILL_BYTES // chunk_bytes)
        self._window_bytes = window_bytes
        self._inflight_bytes = 0

    def plan(self) -> None:
        """Issue what may be written now."""
        while self._disk_serves and self._inflight_bytes < self._window_bytes:
            chunks, tokens, namespace, missing_units = self._index.reserve_spill(self._max_chunks)
            if len(chunks):
                self._clear(self._index.take_remains())
                command_id = self._ledger.next_id()
                self._ledger.issue(Spill(command_id, chunks, tokens, namespace, self.next_sequence))
                self.next_sequence += len(chunks)
                self._inflight_bytes += bytes_of(self._index, chunks)
            elif not missing_units or not len(self._index.evict_for_spill(missing_units)):
                return

    def ended(self, spill: Spill, completion: Completion) -> None:
        """A command ended."""
        assert self._pause is not None
        self._index.complete_spill(spill.chunks, completion.num_ok, retry=True)
        self._inflight_bytes -= bytes_of(self._index, spill.chunks)
        self._pause.note(completion.status, self._ledger.now_us)
        counts = spill.chunks["count"]
        self._counters.spilled += int(counts[: completion.num_ok].sum())
        self._counters.spills_failed += int(counts[completion.num_ok :].sum())

    def forget(self, chunks: ChunkArray) -> None:
        """What the index has forgotten is to be found by no restart.

        Nor what left the disk before: its headers stay until something is written over it.
        """
        self._clear(np.concatenate([chunks, self._index.take_remains(all=True)]))

    @property
    def _disk_serves(self) -> bool:
        return self._pause is not None and self._pause.is_over(self._ledger.now_us)

    def _clear(self, chunks: ChunkArray) -> None:
        on_disk = chunks[chunks["disk_offset"] != NO_EXTENT]
        if len(on_disk):
            self._ledger.issue(Clear(self._ledger.next_id(), on_disk))
