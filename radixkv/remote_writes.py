"""What is to be written to a remote server: chunks that a store has just brought into memory."""

from __future__ import annotations

from collections import deque

import numpy as np

from radixkv.commands import ChunkArray, Completion, Put
from radixkv.counters import PlannerCounters
from radixkv.index import RadixIndex
from radixkv.ledger import Ledger
from radixkv.pause import Pause
from radixkv.room import bytes_of
from radixkv.units import MIB

_PUT_BYTES = 16 * MIB
_INFLIGHT_BYTES = 32 * MIB
_FIRST_PAUSE_US = 500_000
_LAST_PAUSE_US = 5_000_000


class RemoteWrites:
    """Writes through to one server: what it is offered goes out in order, as soon as there is room.

    Chunks that wait are not held: what leaves memory before its turn is dropped, and so is what is
    offered while too much waits or while the server does not take it.

    Args:
        remote: The server's place in the configuration.
        index: Where the chunks are.
        ledger: Where commands are issued.
        counters: Of the planner.
        max_waiting_bytes: Above it, what is offered is dropped.
    """

    def __init__(
        self,
        remote: int,
        index: RadixIndex,
        ledger: Ledger,
        counters: PlannerCounters,
        max_waiting_bytes: int,
    ) -> None:
        self._remote = remote
        self._index = index
        self._ledger = ledger
        self._counters = counters
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[ChunkArray] = deque()
        self._waiting_bytes = 0
        self._inflight_bytes = 0
        self._pause = Pause(_FIRST_PAUSE_US, _LAST_PAUSE_US)
        self._is_stopped = False

    def offer(self, chunks: ChunkArray) -> None:
        """Chunks of one path are ready in memory now."""
        is_full = self._waiting_bytes >= self._max_waiting_bytes
        if self._is_stopped or is_full or not self._pause.is_over(self._ledger.now_us):
            self._counters.puts_dropped += _num_tokens(chunks)
            return
        num_chunks = max(1, _PUT_BYTES // (16 * self._index.unit_bytes))
        for first in range(0, len(chunks), num_chunks):
            self._waiting.append(chunks[first : first + num_chunks])
        self._waiting_bytes += bytes_of(self._index, chunks)

    def plan(self) -> None:
        """Issue what may go out now."""
        while self._waiting and self._inflight_bytes < _INFLIGHT_BYTES:
            chunks = self._waiting.popleft()
            self._waiting_bytes -= bytes_of(self._index, chunks)
            kept, tokens, parent_key = self._index.reserve_put(chunks)
            self._counters.puts_dropped += _num_tokens(chunks[len(kept) :])
            if len(kept):
                command_id = self._ledger.next_id()
                self._ledger.issue(Put(command_id, self._remote, kept, tokens, parent_key))
                self._inflight_bytes += bytes_of(self._index, kept)

    def ended(self, put: Put, completion: Completion) -> None:
        """A command ended."""
        self._index.release_uses(put.chunks)
        self._inflight_bytes -= bytes_of(self._index, put.chunks)
        self._pause.note(completion.status, self._ledger.now_us)
        self._counters.put += _num_tokens(put.chunks[: completion.num_ok])
        self._counters.puts_failed += _num_tokens(put.chunks[completion.num_ok :])

    def stop(self) -> None:
        """From now on nothing more is written."""
        for chunks in self._waiting:
            self._counters.puts_dropped += _num_tokens(chunks)
        self._waiting.clear()
        self._is_stopped = True


def _num_tokens(chunks: ChunkArray) -> int:
    return int(chunks["num_tokens"].sum(dtype=np.int64))
