"""Replaying a trace: a planner makes all its decisions, and every command is done at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from radixkv.commands import Completion, CompletionStatus, DeviceSlots, Tokens
from radixkv.config import DEFAULT_POLICY, CacheConfig, Policy
from radixkv.layout import UNIT_ALIGNMENT, UNITS_PER_CHUNK, KVLayout
from radixkv.planner import Planner
from radixkv.replay.trace import Trace
from radixkv.ticks import TickRecord
from radixkv.units import TIB

# Llama-3.1-8B in 16 bits: 128 KiB a token.
DEFAULT_LAYOUT = KVLayout(num_layers=32, num_kv=2, row_bytes=2048, dtype="bfloat16")


@dataclass(frozen=True, slots=True)
class Setup:
    """One configuration of a cache.

    Attributes:
        memory_tokens: Tokens that the memory tier has room for, rounded down to whole chunks.
        disk_tokens: The same of the disk tier; 0 for none.
        chunk_tokens: Tokens of a chunk.
        policy: Which chunk leaves first.
        layout: KV of one token, for what moves in bytes.
    """

    memory_tokens: int
    disk_tokens: int = 0
    chunk_tokens: int = 64
    policy: Policy = DEFAULT_POLICY
    layout: KVLayout = DEFAULT_LAYOUT

    def make_planner(self) -> Planner:
        """The control plane of such a cache, empty."""
        config = CacheConfig(
            chunk_tokens=self.chunk_tokens,
            policy=self.policy,
            memory_size_bytes=TIB,  # of no consequence: a planner is told its units
            prefetch_budget_bytes=1024 * TIB,
        )
        # Of small tokens one command moves many: what is replayed is the order, not the pieces.
        row_bytes = -(-UNITS_PER_CHUNK * UNIT_ALIGNMENT // self.chunk_tokens)
        small = KVLayout(num_layers=1, num_kv=1, row_bytes=row_bytes, dtype="bytes")
        chunk_units = -(-row_bytes * self.chunk_tokens // small.unit_bytes(self.chunk_tokens))
        return Planner(
            small,
            config,
            memory_units=self.memory_tokens // self.chunk_tokens * chunk_units,
            disk_units=self.disk_tokens // self.chunk_tokens * chunk_units,
        )


@dataclass(slots=True)
class Replay:
    """What became of a trace.

    Attributes:
        setup: The cache that it met.
        num_requests: Requests replayed.
        num_tokens: Tokens of their prompts.
        memory_hit_tokens: Tokens of them that were found in memory.
        disk_hit_tokens: Tokens that were brought from disk for the request.
        stored_tokens: Tokens copied from the engine to memory.
        spilled_tokens: Tokens copied from memory to disk.
        evicted_memory_chunks: Chunks that had to leave memory.
        evicted_disk_chunks: Chunks that had to leave the disk.
    """

    setup: Setup
    num_requests: int = 0
    num_tokens: int = 0
    memory_hit_tokens: int = 0
    disk_hit_tokens: int = 0
    stored_tokens: int = 0
    spilled_tokens: int = 0
    evicted_memory_chunks: int = 0
    evicted_disk_chunks: int = 0

    @property
    def hit_tokens(self) -> int:
        """Tokens found, on whatever tier."""
        return self.memory_hit_tokens + self.disk_hit_tokens

    @property
    def hit_rate(self) -> float:
        """Share of the prompts' tokens that was found."""
        return self.hit_tokens / self.num_tokens if self.num_tokens else 0.0

    @property
    def moved_bytes(self) -> int:
        """Payload of all stores, loads, spills and fetches together."""
        loaded = self.hit_tokens
        moved = self.stored_tokens + loaded + self.spilled_tokens + self.disk_hit_tokens
        return moved * self.setup.layout.token_bytes


def replay(
    trace: Trace, setup: Setup, *, on_request: Callable[[int], None] | None = None
) -> Replay:
    """Sends a trace's prompts, one after the other, to a cache that begins empty.

    Of a request only its prompt is kept; what was answered is stored when a later prompt has it.

    Args:
        trace: The requests.
        setup: The cache.
        on_request: Called with the number of requests done, now and then.
    """
    player = _Player(setup)
    for number, request in enumerate(trace.requests):
        player.serve(trace.tokens(request))
        if on_request and number % 100 == 0:
            on_request(number)
    return player.result()


class _Player:
    """A planner, and an executor that has done everything the moment it is asked."""

    def __init__(self, setup: Setup) -> None:
        self._planner = setup.make_planner()
        self._replay = Replay(setup)

    def serve(self, tokens: Tokens) -> None:
        planner = self._planner
        from_disk = self._fetch(tokens)
        time = planner.new_admission()
        with planner.acquire(tokens, time=time) as handle:
            found = handle.num_memory_tokens
            if found:
                planner.load(handle, 0, _slots(0, found))
        self._end_all()
        planner.store(tokens, _slots, time=time)
        self._end_all()
        self._replay.num_requests += 1
        self._replay.num_tokens += len(tokens)
        self._replay.disk_hit_tokens += min(from_disk, found)
        self._replay.memory_hit_tokens += max(found - from_disk, 0)

    def result(self) -> Replay:
        replay, counters, stats = self._replay, self._planner.counters, self._planner.index.stats()
        replay.stored_tokens = counters.stored
        replay.spilled_tokens = counters.spilled
        replay.evicted_memory_chunks = stats.memory.evicted_chunks
        replay.evicted_disk_chunks = stats.disk.evicted_chunks
        return replay

    def _fetch(self, tokens: Tokens) -> int:
        prefetch = self._planner.prefetch(tokens)
        if prefetch is None:
            return 0
        while not prefetch.done:
            self._end_all()
        return self._planner.end_prefetch(prefetch)

    def _end_all(self) -> None:
        """Every command under way is done, and so is what follows from it."""
        planner = self._planner
        commands = planner.take_commands()
        while commands:
            planner.apply(
                TickRecord(
                    0,
                    tuple(
                        Completion(command.command_id, len(command.chunks), CompletionStatus.OK)
                        for command in commands
                    ),
                )
            )
            commands = planner.take_commands()


def _slots(first: int, last: int) -> DeviceSlots:
    """Slots that nobody reads: only their number counts."""
    return DeviceSlots(address=0, num_slots=last - first, stream=0, owner=None)
