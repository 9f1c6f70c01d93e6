"""The control plane: which tokens are kept, where, what to move and what to evict.

    requests ──▶ Planner ──▶ commands ──▶ (an Executor moves bytes) ──▶ completions ──▶ apply()

A planner does no I/O and reads no clock: it is a deterministic function of the requests and tick
records that it is given, so that its replicas on several ranks stay equal. Everything here runs on
one thread, the engine's scheduler; no call waits for anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import (
    NO_EXTENT,
    Command,
    Completion,
    EngineSlots,
    Fetch,
    Get,
    Load,
    Lookup,
    Plant,
    Put,
    SlotSource,
    Spill,
    Store,
    Tokens,
)
from radixkv.config import CacheConfig
from radixkv.counters import PlannerCounters
from radixkv.disk_writes import DiskWrites
from radixkv.index import Match, PrefixHandle, RadixIndex, SavedIndex
from radixkv.layout import KVLayout
from radixkv.ledger import Ledger
from radixkv.pause import Pause
from radixkv.prefetch import Prefetch, Prefetcher
from radixkv.remote_reads import RemoteReads
from radixkv.remote_writes import RemoteWrites
from radixkv.room import reserve
from radixkv.ticks import TickRecord
from radixkv.tiers.disk import RestoredChunks, spill_window_bytes, units_that_fit
from radixkv.write_policy import Sightings

PayloadSource = Callable[[NDArray[np.uint32]], Sequence[bytes]]
"""The bytes of a prompt's chunks of these spans, from the first on, as far as they are whole."""

_FIRST_PAUSE_US = 1_000_000
_LAST_PAUSE_US = 60_000_000
_WAITING_SHARE = 8  # a part of memory in so many may wait to be written to a remote server


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
        self._chunk_tokens = config.chunk_tokens
        self._policy = config.policy
        self._max_store_tokens = max_store_tokens
        self.index = RadixIndex(
            chunk_tokens=config.chunk_tokens,
            token_bytes=layout.token_bytes,
            memory_bytes=memory_units * self._unit_bytes,
            disk_bytes=disk_units * self._unit_bytes,
            tail_slack=config.tail_slack,
            unit_bytes=self._unit_bytes,
            policy=config.policy,
        )
        self.counters = PlannerCounters()
        self._admissions = 0
        self._ledger = Ledger()
        has_disk = disk_units > 0
        disk = f"disk {config.disk_path}"
        disk_pause = Pause(_FIRST_PAUSE_US, _LAST_PAUSE_US, told_as=disk) if has_disk else None
        self._store_tokens_inflight = 0
        self._disk_writes = DiskWrites(
            self.index,
            self._ledger,
            self.counters,
            disk_pause,
            layout.token_bytes * config.chunk_tokens,
            spill_window_bytes(memory_units * self._unit_bytes),
        )
        self._remote_reads = RemoteReads(len(config.remotes), self.index, self._ledger, layout)
        self._sightings = Sightings()
        waiting_bytes = memory_units * self._unit_bytes // _WAITING_SHARE
        self._remote_writes = [
            RemoteWrites(
                number,
                url.write,
                self._sightings,
                self.index,
                self._ledger,
                self.counters,
                waiting_bytes,
            )
            for number, url in enumerate(config.remotes)
        ]
        self.needs_ticks = has_disk or bool(config.remotes)  # also while nothing ends
        self._watches_use = any(url.write.watches_use for url in config.remotes)
        self._prefetcher = Prefetcher(
            config,
            self.index,
            self._ledger,
            self.counters,
            disk_pause,
            self._remote_reads,
            layout.token_bytes,
        )

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
        return list(self._ledger.pending)

    @property
    def num_issued(self) -> int:
        """Commands so far."""
        return self._ledger.num_issued

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

    def status(self) -> dict[str, Any]:
        """What it is, keeps and did so far, as plain values by name; from any thread."""
        stats = self.index.stats()
        tiers = {
            name: {
                "ready": tier.ready_chunks,
                "writing": tier.writing_chunks,
                "evicted": tier.evicted_chunks,
                "failed": tier.failed_chunks,
            }
            for name, tier in (("memory", stats.memory), ("disk", stats.disk))
        }
        return {
            "policy": self._policy,
            "chunk_tokens": self._chunk_tokens,
            "token_bytes": self._layout.token_bytes,
            "counters": asdict(self.counters),
            "levels": self.levels(),
            "chunks": stats.chunks,
            "tiers": tiers,
        }

    def take_commands(self) -> list[Command]:
        """Commands planned since the last call, in the order in which they are to be submitted."""
        return self._ledger.take_outbox()

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

    @property
    def takes_stores(self) -> bool:
        """Whether a store would be planned now: not too much is under way."""
        return self._store_tokens_inflight < self._max_store_tokens

    def store(
        self,
        tokens: Tokens,
        slots: SlotSource,
        *,
        time: int,
        namespace: int = 0,
        limit: int | None = None,
        tail: bool = True,
        is_computed: bool = False,
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
            is_computed: Whether the engine has heard that the KV is computed. Otherwise a copy
                begins behind all that the engine's stream holds.

        Returns:
            The command, or None: all is kept, memory is full of what is pinned, or too much is
            under way.
        """
        if not self.takes_stores:
            self.counters.stores_dropped += 1
            return None
        if self._layout.block_tokens > 1:
            limit = self._layout.whole_blocks(len(tokens) if limit is None else limit)
        if self._watches_use:
            self._note_seen(tokens, namespace, limit, time)
        chunks, missing_units = reserve(
            self.index, tokens, namespace, time=time, limit=limit, tail=tail
        )
        self.counters.stores_short += missing_units > 0
        if not len(chunks):
            return None
        num_tokens = int(chunks["count"].sum())
        first = int(chunks["span"][0]) * self._chunk_tokens
        try:
            where = slots(first, first + num_tokens)
            if len(where) != num_tokens:
                raise ValueError(f"slots: expected those of {num_tokens} tokens, got {len(where)}")
            command = Store(self._ledger.next_id(), chunks, where, is_computed)
        except BaseException:
            self.index.complete_store(chunks, 0)
            raise
        self._store_tokens_inflight += num_tokens
        self._ledger.issue(command)
        return command

    def plant(
        self, tokens: Tokens, read: PayloadSource, *, time: int, namespace: int = 0, limit: int
    ) -> Plant | None:
        """Plan to take in what another cache exported, as far as it is not kept in memory.

        Args:
            tokens: A prompt, from its first token.
            read: Called once, if anything is to be taken in.
            time: The recency that it gets.
            namespace: Which tree.
            limit: Tokens to take in; the end of a chunk.

        Returns:
            The command, or None where all is kept or there is no room.
        """
        chunks, missing_units = reserve(self.index, tokens, namespace, time=time, limit=limit)
        self.counters.stores_short += missing_units > 0
        if not len(chunks):
            return None
        try:
            command = Plant(self._ledger.next_id(), chunks, read(chunks["span"]))
        except BaseException:
            self.index.complete_store(chunks, 0)
            raise
        self._ledger.issue(command)
        return command

    def load(self, handle: PrefixHandle, first_token: int, slots: EngineSlots) -> Load:
        """Plan to copy a pinned prefix from memory to the engine.

        Args:
            handle: Open handle; memory holds its tokens up to `first_token + len(slots)`.
            first_token: Position of the first token to copy.
            slots: Where the tokens go. Shape (num_tokens,), int64.

        Raises:
            ValueError: Memory does not hold all of them, or there are none.
        """
        if not len(slots):
            raise ValueError("slots: expected at least one, of a token to copy")
        chunks = self.index.use(handle, first_token, len(slots))
        command = Load(self._ledger.next_id(), chunks, slots)
        self._ledger.issue(command)
        return command

    def prefetch(
        self, tokens: Tokens, namespace: int = 0, *, limit: int | None = None
    ) -> Prefetch | None:
        """Begin to bring what disk and remote servers have into memory.

        Returns:
            None if there is nothing to bring and nobody to ask.
        """
        return self._prefetcher.begin(tokens, namespace, limit, self._admissions)

    def end_prefetch(self, prefetch: Prefetch) -> int:
        """Stop waiting and unpin; what is under way still lands in memory.

        Returns:
            Tokens that the prefetch brought into memory.
        """
        return self._prefetcher.end(prefetch)

    def drop(self, tokens: Tokens, namespace: int = 0) -> int:
        """Forget what begins with these tokens, on every tier; gives the number of chunks."""
        dropped = self.index.drop(tokens, namespace)
        self._disk_writes.forget(dropped)
        return len(dropped)

    def advance(self, now: int) -> int:
        """Tell the index the time, in the unit of admissions; gives the number of chunks that left.

        What was not used for its time to live is forgotten on every tier; see `RadixIndex.advance`.
        """
        from_memory, from_disk = self.index.advance(now)
        if len(from_disk):
            self._disk_writes.forget(from_disk)
        return len(from_memory) + len(from_disk)

    def clear(self, *, disk: bool) -> None:
        """Forget what memory holds, and the disk too if asked.

        With the disk, remote servers are left alone until a restart: they cannot be emptied for
        one, and what they have under the same names may be what is to be forgotten.
        """
        self._prefetcher.end_all()
        if disk:
            self._remote_reads.stop()
            for writes in self._remote_writes:
                writes.stop()
            self._disk_writes.forget(self.index.clear_all())
        else:
            self.index.clear_memory()

    def restore(self, restored: RestoredChunks, saved: SavedIndex | None = None) -> None:
        """Take in what a reopened disk holds, and what was known about it.

        Args:
            restored: Its chunks.
            saved: From `recall`. Without it the order of their stores is their recency.
        """
        times = restored.sequence if saved is None else np.zeros_like(restored.sequence)
        self.index.restore_disk(
            restored.parent_index,
            restored.num_tokens,
            restored.tokens,
            restored.disk_offset,
            restored.num_units,
            restored.namespace_index,
            restored.digests,
            times,
        )
        last = max(int(restored.sequence.max(initial=0)), restored.last_sequence)
        self._disk_writes.next_sequence = last + 1
        self._admissions = last
        if saved is not None:
            self.index.adopt_saved(saved)
            self._admissions = saved.now

    def apply(self, record: TickRecord) -> list[tuple[Command, Completion]]:
        """Take in what all ranks agree on; plan what follows from it.

        Returns:
            The commands that ended, with how they ended.
        """
        ended = []
        for command, completion in self._ledger.hear(record):
            self._complete(command, completion)
            ended.append((command, completion))
        self._prefetcher.go_on(self._admissions)
        self._disk_writes.plan()
        for writes in self._remote_writes:
            writes.plan()
        return ended

    def _complete(self, command: Command, completion: Completion) -> None:
        if isinstance(command, Store):
            self._store_tokens_inflight -= len(command.slots)
            self._complete_store(command, completion.num_ok)
        elif isinstance(command, Plant):
            self._complete_store(command, completion.num_ok)
        elif isinstance(command, Load):
            self.index.release_uses(command.chunks)
            done, failed = _count(command, completion.num_ok)
            self.counters.loaded += done
            self.counters.loads_failed += failed
        elif isinstance(command, Spill):
            self._disk_writes.ended(command, completion)
        elif isinstance(command, Put):
            self._remote_writes[command.remote].ended(command, completion)
        elif isinstance(command, Fetch | Get | Lookup):
            self._prefetcher.ended(command, completion)

    def _complete_store(self, command: Store | Plant, num_ok: int) -> None:
        self.index.complete_store(command.chunks, num_ok)
        stored = command.chunks[:num_ok]
        done, failed = _count(command, num_ok)
        self.counters.stored += done
        self.counters.stores_failed += failed
        if num_ok and self._watches_use:
            self._sightings.note(stored, self._admissions)
        for writes in self._remote_writes if num_ok else ():
            writes.stored(stored)

    def _note_seen(self, tokens: Tokens, namespace: int, limit: int | None, time: int) -> None:
        """A request has what memory keeps of its prompt."""
        with self.index.acquire(tokens, namespace, limit=limit, release_gil=False) as kept:
            chunks = kept.slices()
        is_whole = (chunks["memory_offset"] != NO_EXTENT) & (
            chunks["count"] == chunks["num_tokens"]
        )
        chunks = chunks[is_whole]
        seen = chunks[self._sightings.note(chunks, time)]
        for writes in self._remote_writes if len(seen) else ():
            writes.seen(seen)


def _count(command: Command, num_ok: int) -> tuple[int, int]:
    """Tokens done, and not."""
    counts = command.chunks["count"]
    num_failed = int(counts[num_ok:].sum()) if num_ok < len(counts) else 0
    return int(counts[:num_ok].sum()), num_failed
