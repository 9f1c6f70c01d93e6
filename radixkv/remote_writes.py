"""What is to be written to a remote server, of the chunks that stores have brought into memory."""

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
from radixkv.write_policy import Sightings, WritePolicy

_PUT_BYTES = 16 * MIB
_INFLIGHT_BYTES = 32 * MIB
_FIRST_PAUSE_US = 500_000
_LAST_PAUSE_US = 5_000_000
_FREE_SHARE = 8  # one part of memory in so many is kept free of what is nowhere else


class RemoteWrites:
    """Writes to one server: what its policy chooses goes out in order, as soon as there is room.

    Chunks that wait are not held: what leaves memory before its turn is dropped, and so is what is
    chosen while too much waits or while the server does not take it.

    Args:
        remote: The server's place in the configuration.
        policy: Which chunks are written, and when.
        sightings: Which of them requests had; of use where the policy watches that.
        index: Where the chunks are.
        ledger: Where commands are issued.
        counters: Of the planner.
        max_waiting_bytes: Above it, what is offered is dropped.
    """

    def __init__(
        self,
        remote: int,
        policy: WritePolicy,
        sightings: Sightings,
        index: RadixIndex,
        ledger: Ledger,
        counters: PlannerCounters,
        max_waiting_bytes: int,
    ) -> None:
        self._remote = remote
        self._policy = policy
        self._sightings = sightings
        self._resting: deque[tuple[ChunkArray, int]] = deque()  # and the last request that had it
        self._index = index
        self._ledger = ledger
        self._counters = counters
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[ChunkArray] = deque()
        self._waiting_bytes = 0
        self._inflight_bytes = 0
        self._pause = Pause(_FIRST_PAUSE_US, _LAST_PAUSE_US)
        self._is_stopped = False

    def stored(self, chunks: ChunkArray) -> None:
        """Chunks of one path are ready in memory now."""
        if self._policy.waits_until_full:
            self._resting.append((chunks, self._sightings.last(chunks)))
        elif self._policy.num_sightings == 1:
            self._offer(chunks)

    def seen(self, chunks: ChunkArray) -> None:
        """One request more has these chunks of one path."""
        if self._policy.num_sightings == 1:
            return
        due = chunks[self._sightings.counts(chunks) == self._policy.num_sightings]
        for run in np.split(due, np.flatnonzero(np.diff(due["span"].astype(np.int64)) != 1) + 1):
            if len(run):
                self._offer(run)

    def _offer(self, chunks: ChunkArray) -> None:
        if not self._takes_more:
            self._counters.puts_dropped += _num_tokens(chunks)
            return
        num_chunks = max(1, _PUT_BYTES // (16 * self._index.unit_bytes))
        for first in range(0, len(chunks), num_chunks):
            self._waiting.append(chunks[first : first + num_chunks])
        self._waiting_bytes += bytes_of(self._index, chunks)

    def plan(self) -> None:
        """Issue what may go out now."""
        while self._resting and self._takes_more and self._is_nearly_full():
            self._wake_oldest()
        while self._waiting and self._inflight_bytes < _INFLIGHT_BYTES:
            chunks = self._waiting.popleft()
            self._waiting_bytes -= bytes_of(self._index, chunks)
            kept, tokens, parent_key = self._index.reserve_put(chunks)
            self._counters.puts_dropped += _num_tokens(chunks[len(kept) :])
            if len(kept):
                command_id = self._ledger.next_id()
                self._ledger.issue(Put(command_id, self._remote, kept, tokens, parent_key))
                self._inflight_bytes += bytes_of(self._index, kept)

    @property
    def _takes_more(self) -> bool:
        is_full = self._waiting_bytes >= self._max_waiting_bytes
        return not (self._is_stopped or is_full) and self._pause.is_over(self._ledger.now_us)

    def _is_nearly_full(self) -> bool:
        """Whether what rests would soon be lost; not while there is enough to write already."""
        memory = self._index.stats().memory
        num_free = (memory.total_units - memory.used_units) * self._index.unit_bytes
        capacity = memory.total_units * self._index.unit_bytes
        wanted = min(capacity // _FREE_SHARE, 2 * _INFLIGHT_BYTES)
        return num_free + self._waiting_bytes + self._inflight_bytes < wanted

    def _wake_oldest(self) -> None:
        """Of what rests, write what was there first, unless a request has had it since."""
        chunks, last_seen = self._resting.popleft()
        last = self._sightings.last(chunks)
        if last > last_seen:
            self._resting.append((chunks, last))
        else:
            self._offer(chunks)

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
        self._waiting_bytes = 0
        self._resting.clear()
        self._is_stopped = True


def _num_tokens(chunks: ChunkArray) -> int:
    return int(chunks["num_tokens"].sum(dtype=np.int64))
