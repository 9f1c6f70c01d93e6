"""The control plane: which tokens are kept, where, what to move and what to evict.

    requests ──▶ Planner ──▶ commands ──▶ (an Executor moves bytes) ──▶ completions ──▶ apply()

A planner does no I/O and reads no clock: it is a deterministic function of the requests and tick
records that it is given, so that its replicas on several ranks stay equal. Everything here runs on
one thread, the engine's scheduler; no call waits for anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from radixkv.commands import (
    NO_EXTENT,
    ChunkArray,
    Clear,
    Command,
    Completion,
    CompletionStatus,
    EngineSlots,
    Fetch,
    Load,
    Spill,
    Store,
    Tokens,
)
from radixkv.config import CacheConfig
from radixkv.index import Match, PrefixHandle, RadixIndex
from radixkv.layout import KVLayout
from radixkv.ticks import Rates, TickRecord
from radixkv.tiers.disk import RestoredChunks, spill_window_bytes, units_that_fit

SlotSource = Callable[[int, int], EngineSlots]
"""Engine slots of the prompt's positions first … last − 1. Shape (last − first,), int64."""

# One command: long enough for the device, short enough to admit part of a prefix.
_FETCH_BYTES = 16 << 20
_SPILL_CHUNKS = 16
_TRIES_DEAR = 16
_FIRST_PAUSE_US = 1_000_000
_LAST_PAUSE_US = 60_000_000


@dataclass(slots=True)
class Prefetch:
    """Chunks on their way from disk to memory for a request that waits.

    Attributes:
        handle: Pins what was found on any tier; closed when the prefetch ends.
        tokens_before: Tokens of it that were in memory already.
        deadline_us: Planner time after which the request waits no longer.
        done: It ended: all is there, something failed, or time ran out.
    """

    handle: PrefixHandle
    tokens_before: int
    deadline_us: int
    done: bool = False


@dataclass(slots=True)
class PlannerCounters:
    """What a planner did since it began, in tokens except where the comment says calls."""

    stored: int = 0
    stores_dropped: int = 0  # calls: too much was under way
    stores_short: int = 0  # calls: memory had no room, all of it pinned or in use
    stores_failed: int = 0
    loaded: int = 0
    loads_failed: int = 0
    spilled: int = 0
    spills_failed: int = 0
    fetched: int = 0
    fetches_failed: int = 0
    fetches_corrupt: int = 0
    prefetches_dear: int = 0  # calls: computing would be quicker
    prefetches_late: int = 0  # calls: the deadline came first


class Planner:
    """Turns requests and completions into commands.

    Args:
        layout: The KV of one token on one rank.
        config: Settings; sizes are those of this rank.
        memory_units: Units in the memory tier, the least of all ranks.
        disk_units: Units in the disk tier, 0 for none.
        max_store_tokens: Engine slots that stores under way may lock; above it a store is dropped.

    Raises:
        ValueError: A chunk is not a whole number of the layout's blocks.
    """

    def __init__(
        self,
        layout: KVLayout,
        config: CacheConfig,
        *,
        memory_units: int,
        disk_units: int = 0,
        max_store_tokens: float = math.inf,
    ) -> None:
        if config.chunk_tokens % layout.block_tokens:
            raise ValueError(
                f"chunk_tokens: expected a multiple of {layout.block_tokens}, the layout's block, "
                f"got {config.chunk_tokens}"
            )
        self._layout = layout
        self._unit_bytes = layout.unit_bytes(config.chunk_tokens)
        self._token_bytes = layout.token_bytes
        self._chunk_tokens = config.chunk_tokens
        self._config = config
        self._max_store_tokens = max_store_tokens
        self._has_disk = disk_units > 0
        self._spill_window_bytes = spill_window_bytes(memory_units * self._unit_bytes)
        self.index = RadixIndex(
            chunk_tokens=config.chunk_tokens,
            token_bytes=layout.token_bytes,
            memory_bytes=memory_units * self._unit_bytes,
            disk_bytes=disk_units * self._unit_bytes,
            tail_slack=config.tail_slack,
            unit_bytes=self._unit_bytes,
        )
        self.counters = PlannerCounters()
        self.now_us = 0
        self.rates = Rates()
        self.num_issued = 0
        self.next_sequence = 1
        self._admissions = 0
        self._outbox: list[Command] = []
        self._pending: dict[int, Command] = {}
        self._prefetches: list[Prefetch] = []
        self._store_tokens_inflight = 0
        self._fetch_bytes_inflight = 0
        self._spill_bytes_inflight = 0
        self._pause_us = _FIRST_PAUSE_US
        self._disk_rests_until_us = 0

    @classmethod
    def from_config(
        cls, layout: KVLayout, config: CacheConfig, *, max_store_tokens: float = math.inf
    ) -> Self:
        """For an engine whose executors are elsewhere: as large as theirs by the same settings."""
        unit_bytes = layout.unit_bytes(config.chunk_tokens)
        has_disk = config.disk_path is not None
        return cls(
            layout,
            config,
            memory_units=config.memory_size_bytes // unit_bytes,
            disk_units=units_that_fit(config.disk_size_bytes, unit_bytes) if has_disk else 0,
            max_store_tokens=max_store_tokens,
        )

    @property
    def pending_ids(self) -> list[int]:
        """Commands under way, oldest first."""
        return list(self._pending)

    def levels(self) -> dict[str, float]:
        """How full the tiers are, by the name of the gauge."""
        stats, unit_bytes = self.index.stats(), self._unit_bytes
        return {
            "memory_used_bytes": stats.memory.used_units * unit_bytes,
            "memory_size_bytes": stats.memory.total_units * unit_bytes,
            "disk_used_bytes": stats.disk.used_units * unit_bytes,
            "disk_size_bytes": stats.disk.total_units * unit_bytes,
            "kept_tokens": stats.tokens,
            "pins": stats.pins,
        }

    def take_commands(self) -> list[Command]:
        """Commands planned since the last call, in the order in which they are to be submitted."""
        commands, self._outbox = self._outbox, []
        return commands

    def new_admission(self) -> int:
        """The number of the next admission: the recency of what it uses."""
        self._admissions += 1
        return self._admissions

    def match(self, tokens: Tokens, namespace: int = 0, *, limit: int | None = None) -> Match:
        """The longest kept prefix of the first `limit` tokens. Pins and changes nothing."""
        return self.index.match(tokens, namespace, limit=limit, release_gil=False)

    def acquire(
        self,
        tokens: Tokens,
        namespace: int = 0,
        *,
        limit: int | None = None,
        time: int | None = None,
    ) -> PrefixHandle:
        """Match and pin; `time` is the admission that uses it, None leaves recency alone."""
        return self.index.acquire(tokens, namespace, limit=limit, time=time, release_gil=False)

    def store(
        self,
        tokens: Tokens,
        slots: SlotSource,
        *,
        time: int,
        namespace: int = 0,
        limit: int | None = None,
        tail: bool = True,
    ) -> Store | None:
        """Plan to keep what is not kept yet of the first `limit` tokens.

        Args:
            tokens: The prompt, and what was decoded after it.
            slots: Called once, with the range of positions to copy, if there is anything to copy.
            time: The admission that computed them.
            namespace: Which tree.
            limit: Tokens whose KV is complete; None for all. Of the layout's last block, all or
                nothing is kept.
            tail: Whether to keep a last chunk that is not full.

        Returns:
            The command, or None: all is kept, memory is full of what is pinned, or too much is
            under way.
        """
        if self._store_tokens_inflight >= self._max_store_tokens:
            self.counters.stores_dropped += 1
            return None
        if self._layout.block_tokens > 1:
            limit = self._layout.whole_blocks(len(tokens) if limit is None else limit)
        chunks = self._reserve(tokens, namespace, time, limit, tail)
        if not len(chunks):
            return None
        num_tokens = int(chunks["count"].sum())
        first = int(chunks["span"][0]) * self._chunk_tokens
        try:
            command = Store(self._new_id(), chunks, slots(first, first + num_tokens))
        except BaseException:
            self.index.complete_store(chunks, 0)
            raise
        self._store_tokens_inflight += num_tokens
        self._issue(command)
        return command

    def load(self, handle: PrefixHandle, first_token: int, slots: EngineSlots) -> Load:
        """Plan to copy a pinned prefix from memory to the engine.

        Args:
            handle: Open handle; memory holds its tokens up to `first_token + len(slots)`.
            first_token: Position of the first token to copy.
            slots: Where the tokens go. Shape (num_tokens,), int64.

        Raises:
            ValueError: Memory does not hold all of them.
        """
        chunks = self.index.use(handle, first_token, len(slots))
        command = Load(self._new_id(), chunks, slots)
        self._issue(command)
        return command

    def prefetch(
        self, tokens: Tokens, namespace: int = 0, *, limit: int | None = None
    ) -> Prefetch | None:
        """Begin to bring what only the disk has into memory; None if there is nothing to bring."""
        if not self._disk_serves or not self._config.prefetch_budget_bytes:
            return None
        match = self.match(tokens, namespace, limit=limit)
        if match.num_tokens == match.num_memory_tokens:
            return None
        if self._is_dearer_than_computing(match.num_tokens - match.num_memory_tokens):
            self.counters.prefetches_dear += 1
            if self.counters.prefetches_dear % _TRIES_DEAR:  # now and then, to measure again
                return None
        handle = self.acquire(tokens, namespace, limit=limit)
        deadline_us = self.now_us + round(self._config.prefetch_deadline_s * 1e6)
        prefetch = Prefetch(handle, handle.num_memory_tokens, deadline_us)
        self._prefetches.append(prefetch)
        self._continue_prefetch(prefetch)
        return prefetch

    def end_prefetch(self, prefetch: Prefetch) -> int:
        """Stop waiting and unpin; what is under way still lands in memory.

        Returns:
            Tokens that the prefetch brought into memory.
        """
        prefetch.done = True
        if prefetch in self._prefetches:
            self._prefetches.remove(prefetch)
        if prefetch.handle.is_closed:
            return 0
        brought = prefetch.handle.num_memory_tokens - prefetch.tokens_before
        prefetch.handle.close()
        return max(brought, 0)

    def drop(self, tokens: Tokens, namespace: int = 0) -> int:
        """Forget what begins with these tokens, on every tier; gives the number of chunks."""
        dropped = self.index.drop(tokens, namespace)
        self._clear(dropped)
        return len(dropped)

    def clear(self, *, disk: bool) -> None:
        """Forget what memory holds, and the disk too if asked."""
        for prefetch in list(self._prefetches):
            self.end_prefetch(prefetch)
        if disk:
            self._clear(self.index.clear_all())
        else:
            self.index.clear_memory()

    def restore(self, restored: RestoredChunks) -> None:
        """Take in what a reopened disk holds; the order of its stores is its recency."""
        self.index.restore_disk(
            restored.parent_index,
            restored.num_tokens,
            restored.tokens,
            restored.disk_offset,
            restored.num_units,
            restored.namespace_index,
            restored.digests,
            restored.sequence,
        )
        last = int(restored.sequence.max(initial=0))
        self.next_sequence = last + 1
        self._admissions = last

    def apply(self, record: TickRecord) -> list[tuple[Command, Completion]]:
        """Take in what all ranks agree on; plan what follows from it.

        Returns:
            The commands that ended, with how they ended.
        """
        self.now_us += record.elapsed_us
        self.rates = record.rates
        ended = []
        for completion in record.completions:
            command = self._pending.pop(completion.command_id)
            self._complete(command, completion)
            ended.append((command, completion))
        for prefetch in list(self._prefetches):
            self._continue_prefetch(prefetch)
        self._plan_spills()
        return ended

    def _new_id(self) -> int:
        return self.num_issued + 1

    def _issue(self, command: Command) -> None:
        self.num_issued += 1
        self._pending[command.command_id] = command
        self._outbox.append(command)

    def _reserve(
        self, tokens: Tokens, namespace: int, time: int, limit: int | None, tail: bool
    ) -> ChunkArray:
        """Chunks to write, parents first; evicts to make room, but never their own prefix."""

        def reserve() -> tuple[ChunkArray, int]:
            return self.index.reserve(
                tokens, namespace, time=time, limit=limit, tail=tail, release_gil=False
            )

        with self.acquire(tokens, namespace, limit=limit):
            chunks, missing_units = reserve()
            if missing_units and self._evict("memory", missing_units):
                more, missing_units = reserve()
                chunks = np.concatenate([chunks, more])
            self.counters.stores_short += missing_units > 0
        return chunks

    def _evict(self, tier: str, num_units: int) -> bool:
        """Make room; False if nothing may go."""
        return len(self.index.evict_units(tier, num_units)) > 0

    def _complete(self, command: Command, completion: Completion) -> None:
        num_ok = completion.num_ok
        if isinstance(command, Clear):
            return
        done_tokens = int(command.chunks["count"][:num_ok].sum())
        failed_tokens = int(command.chunks["count"][num_ok:].sum())
        counters = self.counters
        if isinstance(command, Store):
            self.index.complete_store(command.chunks, num_ok)
            self._store_tokens_inflight -= done_tokens + failed_tokens
            counters.stored += done_tokens
            counters.stores_failed += failed_tokens
        elif isinstance(command, Load):
            self.index.release_uses(command.chunks)
            counters.loaded += done_tokens
            counters.loads_failed += failed_tokens
        elif isinstance(command, Fetch):
            corrupt = completion.status is CompletionStatus.CORRUPT
            self.index.complete_fetch(command.chunks, num_ok, corrupt=corrupt)
            self._fetch_bytes_inflight -= self._bytes_of(command.chunks)
            counters.fetched += done_tokens
            counters.fetches_failed += failed_tokens
            counters.fetches_corrupt += failed_tokens if corrupt else 0
            self._pace_disk(completion.status)
        else:
            self.index.complete_spill(command.chunks, num_ok, retry=True)
            self._spill_bytes_inflight -= self._bytes_of(command.chunks)
            counters.spilled += done_tokens
            counters.spills_failed += failed_tokens
            self._pace_disk(completion.status)

    def _bytes_of(self, chunks: ChunkArray) -> int:
        return int(chunks["num_units"].sum(dtype=np.int64)) * self._unit_bytes

    def _pace_disk(self, status: CompletionStatus) -> None:
        """A disk that fails is left alone for a while, longer each time."""
        if status in (CompletionStatus.FAILED, CompletionStatus.FULL):
            self._disk_rests_until_us = self.now_us + self._pause_us
            self._pause_us = min(2 * self._pause_us, _LAST_PAUSE_US)
        elif status is CompletionStatus.OK:
            self._pause_us = _FIRST_PAUSE_US

    @property
    def _disk_serves(self) -> bool:
        return self._has_disk and self.now_us >= self._disk_rests_until_us

    def _plan_spills(self) -> None:
        """Copy to disk what memory has and the disk lacks, ahead of eviction."""
        while self._disk_serves and self._spill_bytes_inflight < self._spill_window_bytes:
            chunks, tokens, namespace, missing_units = self.index.reserve_spill(_SPILL_CHUNKS)
            if len(chunks):
                self._issue(Spill(self._new_id(), chunks, tokens, namespace, self.next_sequence))
                self.next_sequence += len(chunks)
                self._spill_bytes_inflight += self._bytes_of(chunks)
            elif not missing_units or not self._evict("disk", missing_units):
                return

    def _is_dearer_than_computing(self, num_tokens: int) -> bool:
        """Whether the disk, with what it has to do already, would take longer than the engine."""
        if not self.rates.fetch_bytes_per_s or not self.rates.compute_tokens_per_s:
            return False
        num_bytes = num_tokens * self._token_bytes + self._fetch_bytes_inflight
        fetch_s = num_bytes / self.rates.fetch_bytes_per_s
        return fetch_s > num_tokens / self.rates.compute_tokens_per_s

    def _continue_prefetch(self, prefetch: Prefetch) -> None:
        """Plan its next reads, or end it."""
        handle = prefetch.handle
        while self._disk_serves and self._fetch_bytes_inflight < self._config.prefetch_budget_bytes:
            max_chunks = max(1, _FETCH_BYTES // (16 * self._unit_bytes))
            chunks, missing_units = self.index.reserve_fetch(handle, max_chunks=max_chunks)
            if len(chunks):
                self._issue(Fetch(self._new_id(), chunks))
                self._fetch_bytes_inflight += self._bytes_of(chunks)
            elif not missing_units or not self._evict("memory", missing_units):
                break
        if handle.num_memory_tokens >= handle.num_tokens:
            prefetch.done = True
        elif self.now_us >= prefetch.deadline_us:
            self.counters.prefetches_late += 1
            prefetch.done = True
        elif not any(isinstance(command, Fetch) for command in self._pending.values()):
            prefetch.done = True  # nothing moves any more: the rest is not to be had
        if prefetch.done:
            self._prefetches.remove(prefetch)

    def _clear(self, chunks: ChunkArray) -> None:
        on_disk = chunks[chunks["disk_offset"] != NO_EXTENT]
        if len(on_disk):
            self._issue(Clear(self._new_id(), on_disk))
