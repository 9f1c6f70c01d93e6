"""The data plane of one rank: commands in, completions out.

    submit ─┬─ Store, Load, Plant ─▶ copy threads ───┐
            ├─ Spill, Fetch, Clear ▶ disk thread ────┼─▶ completions ─▶ poll
            └─ Put, Get, Lookup ───▶ remotes' threads┘

All threads are native and never take the GIL. The executor decides nothing: which chunk lies where
is the control plane's affair, and a command says it all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.commands import (
    CHUNK_DTYPE,
    ChunkArray,
    Clear,
    Command,
    Completion,
    CompletionStatus,
    EngineSlots,
    Fetch,
    Get,
    Load,
    Lookup,
    Plant,
    Put,
    Spill,
    Store,
)
from radixkv.config import CacheConfig
from radixkv.forks import finalize_at_home
from radixkv.gpu import DEFAULT_GPU_OPTIONS, GpuCopies, GpuOptions
from radixkv.layout import EngineMemory, KVLayout
from radixkv.numa import local_node
from radixkv.remote_url import RemoteUrl
from radixkv.tiers.disk import DiskOptions, log_scan
from radixkv.tiers.local_disk import LocalDisk
from radixkv.tiers.remotes import Remotes
from radixkv.tiers.sizes import check_sizes
from radixkv.units import approximate_size

logger = logging.getLogger(__name__)

_KINDS = {
    Store: _native.CommandKind.STORE,
    Load: _native.CommandKind.LOAD,
    Spill: _native.CommandKind.SPILL,
    Fetch: _native.CommandKind.FETCH,
    Clear: _native.CommandKind.CLEAR,
    Put: _native.CommandKind.PUT,
    Get: _native.CommandKind.GET,
    Lookup: _native.CommandKind.LOOKUP,
}
_STATUSES = tuple(CompletionStatus)


@dataclass(frozen=True, slots=True)
class KindStats:
    """What one kind of command has done so far.

    Attributes:
        num_queued: Commands submitted and not yet ended.
        num_commands: Commands ended.
        num_chunks: Chunks done; tokens found, of lookups.
        num_bytes: Bytes done; on disk with the padding of the extents.
        num_failed: Commands that ended with FAILED.
        num_corrupt: Commands that ended with CORRUPT.
        num_full: Commands that ended with FULL.
        recent_gbps: Rate over about the last five commands, counting the time while any was on its
            way; 0 before the first.
    """

    num_queued: int
    num_commands: int
    num_chunks: int
    num_bytes: int
    num_failed: int
    num_corrupt: int
    num_full: int
    recent_gbps: float


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """`KindStats` of each kind of command."""

    store: KindStats
    load: KindStats
    spill: KindStats
    fetch: KindStats
    clear: KindStats
    put: KindStats
    get: KindStats
    lookup: KindStats


class Executor:
    """Owns one rank's memory and disk tier and moves bytes between them and the engine.

    Args:
        layout: Shape of a token's KV on this rank.
        chunk_tokens: Tokens of a full chunk, 1 to 512.
        memory_bytes: Size of the memory tier, rounded down to whole units. Allocated and faulted in
            here.
        disk: How to open the disk tier, or None for none.
        remotes: Which remote servers there are; they are connected to in the background.
        rank: Of this process, for what lies on remote servers.
        world_size: Ranks that have a part of each chunk there.
        num_copy_threads: Threads that store and load.
        hugepages: Ask for huge pages.
        numa: NUMA node to bind the memory to, or -1.
        pin: Pin the memory for the GPU, where there is a CUDA driver.
        gpu: How to copy where the engine's memory is on a GPU.
        copies_rows: False leaves the copying out of stores and loads: only to measure what else
            they cost.

    Raises:
        ValueError: A size is out of range.
        TierError: Memory cannot be had, or the disk tier cannot be opened.
        TierLockedError: Another process uses the disk tier's folder.
        TierFormatError: The folder holds another layout or version.
    """

    def __init__(
        self,
        layout: KVLayout,
        *,
        chunk_tokens: int = 64,
        memory_bytes: int,
        disk: DiskOptions | None = None,
        remotes: Sequence[RemoteUrl] = (),
        rank: int = 0,
        world_size: int = 1,
        num_copy_threads: int = 2,
        hugepages: bool = True,
        numa: int = -1,
        pin: bool = True,
        gpu: GpuOptions = DEFAULT_GPU_OPTIONS,
        copies_rows: bool = True,
    ) -> None:
        if not 1 <= chunk_tokens <= 512:
            raise ValueError(f"chunk_tokens: expected 1 … 512, got {chunk_tokens}")
        if num_copy_threads < 1:
            raise ValueError(f"num_copy_threads: expected at least 1, got {num_copy_threads}")
        self._home = os.getpid()
        self.layout = layout
        self.chunk_tokens = chunk_tokens
        self.unit_bytes = layout.unit_bytes(chunk_tokens)
        self.memory_units = memory_bytes // self.unit_bytes
        if self.memory_units < 1:
            raise ValueError(
                f"memory_bytes: expected at least one unit of {self.unit_bytes}, got {memory_bytes}"
            )
        self._disk = None if disk is None else LocalDisk(disk, layout, chunk_tokens)
        self.disk_units = 0 if self._disk is None else self._disk.num_units
        options = _native.ExecutorOptions()
        options.num_layers = layout.num_layers
        options.num_kv = layout.num_kv
        options.row_bytes = layout.row_bytes
        options.chunk_tokens = chunk_tokens
        options.unit_bytes = self.unit_bytes
        options.memory_units = self.memory_units
        options.num_copy_threads = num_copy_threads
        options.copies_rows = copies_rows
        options.hugepages = hugepages
        options.numa_node = numa
        options.pin = pin
        options.set_object_shape(layout.digest(chunk_tokens), rank, world_size)
        self._remotes = Remotes(remotes, options)
        native_disk = None if self._disk is None else self._disk.native_options
        self._native = _native.Executor(options, native_disk, self._log_progress, log_scan)
        # Threads must not outlive the interpreter, even if nobody closes.
        self._end = finalize_at_home(self, self._native.close, 0.0)
        pool_facts = self._native.pool_facts()
        pool_bytes = self.memory_units * self.unit_bytes
        self._remotes.open(
            self._native,
            (int(pool_facts["address"]), pool_bytes),
            chunk_tokens=chunk_tokens,
            unit_bytes=self.unit_bytes,
        )
        self._engine_memory: EngineMemory | None = None
        self._gpu: GpuCopies | None = None
        self._gpu_options = gpu
        self._pool_facts = pool_facts
        self._log_start()
        self.restored = None if self._disk is None else self._disk.open(self._native)
        """What the disk tier held when it was opened; None without a disk tier."""

    @classmethod
    def from_config(
        cls,
        layout: KVLayout,
        config: CacheConfig,
        *,
        group_id: bytes,
        rank: int = 0,
        world_size: int = 1,
    ) -> Self:
        """One rank's executor, as the settings want it.

        Args:
            layout: Shape of a token's KV on this rank.
            config: Settings; sizes are those of this rank.
            group_id: 16 bytes, the same on all ranks, for a disk file that is made now.
            rank: Of this process.
            world_size: Ranks whose files lie side by side.

        Raises:
            As the constructor, and:
            ConfigError: A tier has no room for a full chunk, or memory for it cannot be had.
        """
        check_sizes(layout, config)
        return cls(
            layout,
            chunk_tokens=config.chunk_tokens,
            memory_bytes=config.memory_size_bytes,
            disk=DiskOptions.from_config(config, group_id, rank, world_size),
            remotes=config.remotes,
            rank=rank,
            world_size=world_size,
            hugepages=config.memory_hugepages != "never",
            numa=-1 if config.memory_numa == "any" else local_node(),
            gpu=GpuOptions(config.gpu_copy, config.gpu_blocks),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def attach(self, engine_memory: EngineMemory) -> None:
        """Say where the engine keeps KV. Needed before the first `Store` or `Load`.

        The executor keeps `engine_memory`, and with it its owner, until another one is attached or
        it is closed.

        Raises:
            ValueError: It does not fit the layout, or stores or loads are on their way.
            TypeError: An array has another dtype.
            UnsupportedError: It is on a GPU that cannot be used; says why.
        """
        if self._gpu is not None and not self._gpu.is_idle:
            raise ValueError("engine_memory: loads or stores with the old one are on their way")
        gpu = None
        if engine_memory.device is not None:  # first: it may refuse
            gpu = GpuCopies(
                self._native,
                self.layout,
                engine_memory,
                int(self._pool_facts["address"]),
                self.unit_bytes,
                self._gpu_options,
            )
        at = engine_memory
        blocks = (at.block_slots, at.slot_strides_bytes)
        pieces = (at.num_pieces, at.piece_strides_bytes)
        self._native.attach(at.addresses, at.strides_bytes, at.num_slots, *blocks, *pieces)
        self._gpu = gpu
        self._engine_memory = engine_memory

    def follow_stream(self, stream: int) -> None:
        """Let copies that are queued from now on begin after what this CUDA stream holds then.

        In place of `EngineMemory.forward_stream`, for an engine that chooses its stream late.
        Without a GPU it means nothing.
        """
        if self._gpu is not None:
            self._gpu.follow_stream(stream)

    def submit(self, command: Command) -> None:
        """Queue a command. Returns at once; the command's arrays are copied.

        Commands of one kind end in the order of submission, but for those to remote servers. A
        `Store` covers whole chunks.

        Raises:
            ValueError: The command makes no sense: an extent outside its tier, slots outside the
                engine's memory, arrays whose lengths do not agree, no disk tier, a closed executor.
            TypeError: An array has another dtype.
        """
        chunks = _check_chunks(command.chunks)
        if isinstance(command, Store | Load) and self._gpu is not None:
            self._gpu.submit(command)
        elif isinstance(command, Store | Load):
            kind, slots = _KINDS[type(command)], _check_slots(command.slots)
            self._native.submit_copy(kind, command.command_id, chunks, slots)
        elif isinstance(command, Spill):
            self._native.submit_spill(
                command.command_id, chunks, command.tokens, command.namespace, command.sequence
            )
        elif isinstance(command, Plant):
            self._native.submit_stored(command.command_id, chunks, list(command.payloads))
        elif isinstance(command, Put | Get | Lookup):
            self._remotes.submit(command)
        else:
            self._native.submit_disk(_KINDS[type(command)], command.command_id, chunks)

    def begin_loads(self) -> None:
        """Begin the loads that wait for this; on a GPU they are gathered until then, or `poll`."""
        if self._gpu is not None:
            self._gpu.begin_loads()

    def poll(self, max_completions: int = 1024) -> list[Completion]:
        """Take out completions that are there; under a microsecond when there are none."""
        if self._gpu is not None:
            self._gpu.poll()
        self._remotes.look()
        found = self._native.poll(max_completions)
        ended = [Completion(id, num_ok, _STATUSES[status]) for id, num_ok, status in found]
        if ended and self._disk is not None:
            self._disk.look([completion.status for completion in ended])
        return ended

    def wait(self, timeout_s: float) -> None:
        """Block, without the GIL, until a completion can be polled or the time is over.

        Copies of a GPU are only looked at: while any is under way it returns after a millisecond.
        """
        is_on_gpu = self._gpu is not None and not self._gpu.is_idle
        self._native.wait(min(timeout_s, 1e-3) if is_on_gpu else timeout_s)

    def wait_layer(self, command_id: int, layer: int, timeout_s: float, stream: int = 0) -> bool:
        """Block, without the GIL, until a load has copied a layer of all its tokens.

        On a GPU it only waits until the layer is queued: what is queued on `stream` from now on
        begins when the layer is there.

        Returns:
            True once the layer is there; False if the load failed or the time is over first.

        Raises:
            ValueError: No such layer, or no such load among those not ended and the last 4,096 that
                did.
        """
        if self._gpu is not None:
            return self._gpu.hold_for_layer(command_id, layer, stream)
        return bool(self._native.wait_layer(command_id, layer, timeout_s))

    def hold_for_store(self, command_id: int, stream: int) -> bool:
        """On a GPU, let what is queued on `stream` from now on begin when a store has read its
        slots. Gives whether it will; otherwise wait for the command's end.
        """
        return self._gpu is not None and self._gpu.hold_for_store(command_id, stream)

    def layers_done(self, command_id: int) -> int:
        """How many layers of a load are there, counted from the first. Raises as `wait_layer`."""
        return int(self._native.layers_done(command_id))

    def stats(self) -> ExecutorStats:
        """Count what was done so far."""
        kinds = (KindStats(**self._native.kind_stats(kind)) for kind in _KINDS.values())
        return ExecutorStats(*kinds)

    @property
    def pinned(self) -> bool:
        """Whether the memory tier is pinned for a GPU."""
        return bool(self._pool_facts["pinned"])

    def remote_health(self) -> list[tuple[bool, str]]:
        """For each remote server, whether it serves now, and if not, why."""
        return self._remotes.health()

    @property
    def disk_file(self) -> str | None:
        """The disk tier's file; None without one."""
        return None if self._disk is None else self._disk.path

    @property
    def io_engine(self) -> str | None:
        """What moves the disk tier's bytes: "io_uring" or "threads"; None without a disk tier."""
        return None if self._disk is None else self._disk.io_engine

    def read_memory(self, offset_units: int, num_bytes: int) -> bytes:
        """Copy bytes out of the memory tier.

        Raises:
            ValueError: The range is outside the tier.
        """
        return bytes(self._native.read_memory(offset_units, num_bytes))

    def inject_fault(
        self, kind: type[Command], *, nth: int = 1, fail: bool = False, delay_s: float = 0.0
    ) -> None:
        """Make a command go wrong, for tests.

        Args:
            kind: Class of the command.
            nth: Which one from now on; 1 is the next of its kind.
            fail: It ends with FAILED without being begun.
            delay_s: Its completion, and those of its kind behind it, come so much later.
        """
        self._native.inject_fault(_KINDS[kind], nth, fail, delay_s)

    def close(self, drain_s: float = 10.0) -> None:
        """End: finish what is queued for a while, fail the rest, sync and unlock the disk tier.

        Afterwards the engine's memory is not touched any more. Completions can still be polled.
        Idempotent; in a fork of the process it does nothing.

        Args:
            drain_s: How long queued commands may go on. What is on its way then is awaited all the
                same.
        """
        if os.getpid() != self._home:
            return
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None
        self._remotes.close(drain_s)
        self._native.close(drain_s)
        self._end.detach()
        self._engine_memory = None

    def _log_progress(self, done_bytes: int) -> None:
        all_bytes = self.memory_units * self.unit_bytes
        logger.info("memory: %.1f of %.1f GiB faulted in", done_bytes / 2**30, all_bytes / 2**30)

    def _log_start(self) -> None:
        pool = self._pool_facts
        logger.info(
            "memory: %s in units of %d bytes, ready after %.2f s, %s in huge pages, %s",
            approximate_size(self.memory_units * self.unit_bytes),
            self.unit_bytes,
            pool["ready_s"],
            approximate_size(pool["huge_bytes"]),
            "pinned" if pool["pinned"] else f"not pinned: {pool['pin_reason']}",
        )


def _check_slots(slots: EngineSlots) -> NDArray[np.int64]:
    if not isinstance(slots, np.ndarray):
        raise TypeError(
            f"slots: expected an array, the engine's memory is not on a GPU, got {type(slots)}"
        )
    if slots.dtype != np.int64 or slots.ndim != 1:
        raise TypeError(f"slots: expected int64, 1 dimension, got {slots.dtype} {slots.shape}")
    return np.ascontiguousarray(slots)


def _check_chunks(chunks: ChunkArray) -> ChunkArray:
    if chunks.dtype != CHUNK_DTYPE:
        raise TypeError(f"chunks: expected CHUNK_DTYPE, got {chunks.dtype}")
    return chunks
