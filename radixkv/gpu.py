"""Stores and loads between pinned memory and an engine's memory on an NVIDIA GPU.

The copies run on streams of their own, beside the model. A copy begins after what the engine's
forward stream holds when it is queued: slots that a load fills may still be written by the step in
flight, and those that a store reads may not be written yet. Nothing here waits for the device.

The kernels are in `csrc/cuda`, an extension module that is built where nvcc is found and that loads
where a driver is.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.commands import ChunkArray, DeviceSlots, EngineSlots, Load, Store
from radixkv.errors import UnsupportedError
from radixkv.layout import EngineMemory, KVLayout
from radixkv.units import approximate_size

logger = logging.getLogger(__name__)

_KEPT_FAILURES = 4096
_MAX_JOINED_TOKENS = 131_072


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How copies go about their work.

    Attributes:
        path: "kernel", "staged", or "auto" for what was measured at start.
        max_blocks: Multiprocessors that a kernel may take while it uses the bus.
    """

    path: str = "auto"
    max_blocks: int = 4


DEFAULT_GPU_OPTIONS = GpuOptions()


@dataclass(slots=True)
class _Copy:
    """A copy that was accepted; `ticket` is None until the device has taken it."""

    command: Store | Load
    ticket: Any = None


class GpuCopies:
    """Carries out the stores and loads of one executor on one GPU.

    Loads are gathered until `begin_loads` and then move as one, layer by layer: a forward that
    reads what several of them bring can begin with the first layer of all.

    Args:
        native: The executor that counts them and checks what they mean.
        layout: Shape of a token's KV.
        engine: The engine's memory; `engine.device` is a CUDA device.
        pool_address: Where unit 0 of the memory tier is.
        unit_bytes: Size of a unit.
        options: How to copy.

    Raises:
        UnsupportedError: The extension module was not built, there is no GPU, or memory is not
            pinned.
    """

    def __init__(
        self,
        native: _native.Executor,
        layout: KVLayout,
        engine: EngineMemory,
        pool_address: int,
        unit_bytes: int,
        options: GpuOptions,
    ) -> None:
        self._cuda = load_module()
        _check_pinned(native)
        self._stream = engine.forward_stream
        self._num_slots = engine.num_slots
        self._pool_address = pool_address
        self._unit_bytes = unit_bytes
        paths = self._cuda.Path.__members__
        place = self._cuda.EngineLayout(
            engine.addresses,
            engine.strides_bytes,
            num_slots=engine.num_slots,
            row_bytes=layout.row_bytes,
            num_kv=layout.num_kv,
            block_slots=engine.block_slots,
            slot_strides=engine.slot_strides_bytes,
            num_pieces=engine.num_pieces,
            piece_strides=engine.piece_strides_bytes,
        )
        self._transfer = self._cuda.CudaTransfer(
            place,
            device=engine.device,
            path=None if options.path == "auto" else paths[options.path.upper()],
            max_blocks=options.max_blocks,
            max_tokens=max(2 * _MAX_JOINED_TOKENS, engine.num_slots),  # no load has more
        )
        for line in describe_paths(self._transfer.path_times):
            logger.info("%s", line)
        self._native = native  # behind the transfer, which is to go first: it uses the pool
        self._waiting: dict[type, deque[_Copy]] = {Store: deque(), Load: deque()}
        self._running: dict[int, _Copy] = {}
        self._failed_loads: dict[int, None] = {}  # the last ones, oldest first
        self._last_hold: tuple[Any, int, int] | None = None
        self._holds = False

    def follow_stream(self, stream: int) -> None:
        """From now on, begin copies after what this stream holds when they are queued."""
        self._stream = stream

    def submit(self, command: Store | Load) -> None:
        """Queue a copy. Arguments are checked here; what the device cannot take yet waits."""
        kind = _kind(command)
        chunks, slots = command.chunks, command.slots
        self._check_slots(slots)
        if self._native.begin_outside(kind, command.command_id, chunks, len(slots)):
            self._waiting[type(command)].append(_Copy(command))
            if isinstance(command, Store):
                self._begin_stores()
        elif isinstance(command, Load):
            self._note_failed(command)

    def begin_loads(self) -> None:
        """Begin the loads that wait, as one where they fit together."""
        waiting = self._waiting[Load]
        while waiting:
            joined = _joinable(waiting)
            if not self._begin(self._transfer.load, joined):
                return
            for _ in joined:
                waiting.popleft()

    def poll(self) -> None:
        """Tell the executor which copies are done, and start those that waited."""
        if self.is_idle:
            return
        for copy in list(self._running.values()):
            if self._succeeds(copy, self._transfer.is_done):
                self._end(copy, ok=True)
        self.begin_loads()
        self._begin_stores()

    def hold_for_layer(self, command_id: int, layer: int, stream: int) -> bool:
        """Let what is queued on `stream` from now on begin after this layer of a load is there.

        Returns:
            False if the load failed.
        """
        while self._is_waiting(Load, command_id):  # the device takes them in order, and soon
            self.poll()
        copy = self._running.get(command_id)
        if copy is None:
            return command_id not in self._failed_loads
        hold = (copy.ticket, layer, stream)
        if hold != self._last_hold:  # loads that move as one are held for once
            self._holds = bool(self._transfer.hold_for_layer(*hold))
            self._last_hold = hold
        return self._holds

    def hold_for_store(self, command_id: int, stream: int) -> bool:
        """Let what is queued on `stream` from now on begin after a store has read its slots.

        Returns:
            False if the device has not taken the store yet.
        """
        copy = self._running.get(command_id)
        if copy is None:
            return not self._is_waiting(Store, command_id)
        self._transfer.hold_for_end(copy.ticket, stream)  # one that failed reads no longer
        return True

    @property
    def is_idle(self) -> bool:
        """Whether no copy is under way."""
        return not (self._running or self._waiting[Load] or self._waiting[Store])

    def close(self) -> None:
        """Wait for what runs; what waits fails."""
        for copy in list(self._running.values()):
            if self._succeeds(copy, lambda ticket: self._transfer.wait(ticket) is None):
                self._end(copy, ok=True)
        for queue in self._waiting.values():
            for copy in queue:
                self._end(copy, ok=False)
            queue.clear()

    def _succeeds(self, copy: _Copy, is_done: Callable[[Any], bool]) -> bool:
        """Whether it is done; one that turns out to have failed is ended."""
        try:
            return is_done(copy.ticket)
        except Exception:
            logger.exception("command %d: the copy failed", copy.command.command_id)
            self._end(copy, ok=False)
            return False

    def _check_slots(self, slots: EngineSlots) -> None:
        """Those that are on the device are checked when they are read."""
        if isinstance(slots, DeviceSlots) or not len(slots):
            return
        if slots.min() < 0 or slots.max() >= self._num_slots:
            raise ValueError(f"slots: outside 0 … {self._num_slots - 1}")

    def _is_waiting(self, kind: type[Store | Load], command_id: int) -> bool:
        return any(copy.command.command_id == command_id for copy in self._waiting[kind])

    def _begin_stores(self) -> None:
        waiting = self._waiting[Store]
        while waiting and self._begin(self._transfer.store, [waiting[0]]):
            waiting.popleft()

    def _begin(self, begin: Callable[..., Any], copies: Sequence[_Copy]) -> bool:
        """Hand copies over as one transfer; False if the device cannot take it yet."""
        chunks = np.concatenate([copy.command.chunks for copy in copies])
        try:
            ticket = begin(
                self._addresses(chunks),
                chunks["num_tokens"].astype(np.int32),
                chunks["first"].astype(np.int32),
                chunks["count"].astype(np.int32),
                self._joined_slots([copy.command.slots for copy in copies]),
                self._fence(copies[0].command),
            )
        except Exception:  # accepted already: their end is heard like any other
            logger.exception("%d copies could not be begun", len(copies))
            for copy in copies:
                self._end(copy, ok=False)
            return True
        if ticket is None:
            return False
        for copy in copies:
            copy.ticket = ticket
            self._running[copy.command.command_id] = copy
        return True

    def _fence(self, command: Store | Load) -> int:
        """The stream behind which a copy begins. Where a store's KV is there already, that is the
        one on which its slots come to be: behind the model it could wait for a whole prefill, and
        keep the slots from the next request meanwhile.
        """
        if isinstance(command, Store) and command.is_computed:
            stream = _stream_of(command.slots)
            return self._stream if stream is None else stream
        return self._stream

    def _addresses(self, chunks: ChunkArray) -> NDArray[np.uint64]:
        offsets = chunks["memory_offset"].astype(np.uint64) * np.uint64(self._unit_bytes)
        return offsets + np.uint64(self._pool_address)

    def _joined_slots(self, parts: Sequence[EngineSlots]) -> Any:
        """All of one kind."""
        on_device = [part for part in parts if isinstance(part, DeviceSlots)]
        if on_device:
            places = [(part.address, part.num_slots) for part in on_device]
            return self._cuda.DeviceSlots(places, on_device[0].stream)
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])

    def _note_failed(self, load: Load) -> None:
        self._failed_loads[load.command_id] = None
        if len(self._failed_loads) > _KEPT_FAILURES:
            del self._failed_loads[next(iter(self._failed_loads))]

    def _end(self, copy: _Copy, *, ok: bool) -> None:
        command = copy.command
        self._running.pop(command.command_id, None)
        if isinstance(command, Load) and not ok:
            self._note_failed(command)
        self._native.end_outside(_kind(command), command.command_id, command.chunks, ok)


def _joinable(waiting: Iterable[_Copy]) -> list[_Copy]:
    """The first ones, as long as their slots are of one kind and they are not too many tokens."""
    joined: list[_Copy] = []
    num_tokens = 0
    for copy in waiting:
        slots = copy.command.slots
        num_tokens += len(slots)
        fits = num_tokens <= _MAX_JOINED_TOKENS
        if joined and not (fits and _stream_of(slots) == _stream_of(joined[0].command.slots)):
            break
        joined.append(copy)
    return joined


def _stream_of(slots: EngineSlots) -> int | None:
    return slots.stream if isinstance(slots, DeviceSlots) else None


def _kind(command: Store | Load) -> _native.CommandKind:
    return _native.CommandKind.LOAD if isinstance(command, Load) else _native.CommandKind.STORE


def _check_pinned(native: _native.Executor) -> None:
    """A kernel that reads memory which is not pinned ends the engine's whole CUDA context."""
    facts = native.pool_facts()
    if not facts["pinned"]:
        raise UnsupportedError(
            f"the engine's memory is on a GPU, but radixkv's is not pinned ({facts['pin_reason']}):"
            " raise the limit of locked memory (ulimit -l), or make memory.size smaller"
        )


def describe_paths(path_times: Iterable[Any]) -> list[str]:
    """What was measured at start, a line for each direction."""
    lines: dict[str, list[str]] = {}
    for times in path_times:
        direction = "to the GPU" if times.direction.name == "LOAD" else "from the GPU"
        kernel_us, staged_us = times.us
        text = f"{approximate_size(times.num_bytes)} {kernel_us:.0f}/{staged_us:.0f}"
        lines.setdefault(direction, []).append(text)
    return [
        f"{direction}, µs by kernel/staged: {', '.join(texts)}"
        for direction, texts in lines.items()
    ]


def load_module() -> Any:
    """radixkv._cuda.

    Raises:
        UnsupportedError: It was not built, or there is no GPU.
    """
    try:
        cuda = importlib.import_module("radixkv._cuda")
    except ImportError as error:
        raise UnsupportedError(
            "radixkv was built without CUDA, but the engine's memory is on a GPU: install it where "
            f"nvcc is on the PATH ({error})"
        ) from error
    reason = cuda.why_unavailable()
    if reason:
        raise UnsupportedError(f"the engine's memory is on a GPU that cannot be used: {reason}")
    return cuda
