"""Stores and loads between pinned memory and an engine's memory on an NVIDIA GPU.

The copies run on streams of their own, beside the model. A copy begins after what the engine's
forward stream holds when it is queued: slots that a load fills may still be written by the step in
flight, and those that a store reads may not be written yet. Nothing here waits for the device.

The kernels are in `csrc/cuda`, an extension module that is built where nvcc is found and that loads
where a driver is.
"""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixkv import _native
from radixkv.commands import ChunkArray, Load, Store
from radixkv.errors import UnsupportedError
from radixkv.layout import EngineMemory, KVLayout


@dataclass(slots=True)
class _Copy:
    """A copy that was accepted; `ticket` is None until the device has taken it."""

    command: Store | Load
    ticket: Any = None


class GpuCopies:
    """Carries out the stores and loads of one executor on one GPU.

    Args:
        native: The executor that counts them and checks what they mean.
        layout: Shape of a token's KV.
        engine: The engine's memory; `engine.device` is a CUDA device.
        pool_address: Where unit 0 of the memory tier is.
        unit_bytes: Size of a unit.

    Raises:
        UnsupportedError: The extension module was not built, or there is no GPU.
    """

    def __init__(
        self,
        native: _native.Executor,
        layout: KVLayout,
        engine: EngineMemory,
        pool_address: int,
        unit_bytes: int,
    ) -> None:
        cuda = _load_module()
        self._native = native
        self._stream = engine.forward_stream
        self._pool_address = pool_address
        self._unit_bytes = unit_bytes
        place = cuda.EngineLayout(
            engine.addresses,
            engine.strides_bytes,
            num_slots=engine.num_slots,
            row_bytes=layout.row_bytes,
            num_kv=layout.num_kv,
        )
        self._transfer = cuda.CudaTransfer(place, device=engine.device)
        self._waiting: dict[type, deque[_Copy]] = {Store: deque(), Load: deque()}
        self._running: dict[int, _Copy] = {}

    def submit(self, command: Store | Load) -> None:
        """Queue a copy. Arguments are checked here; what the device cannot take yet waits."""
        kind = _kind(command)
        chunks, slots = command.chunks, command.slots
        if self._native.begin_outside(kind, command.command_id, chunks, slots):
            self._waiting[type(command)].append(_Copy(command))
            self._start_waiting(type(command))

    def poll(self) -> None:
        """Tell the executor which copies are done, and start those that waited."""
        for copy in list(self._running.values()):
            if self._transfer.is_done(copy.ticket):
                self._end(copy)
        for kind in (Load, Store):
            self._start_waiting(kind)

    def hold_for_layer(self, command_id: int, layer: int, stream: int) -> None:
        """Let what is queued on `stream` from now on begin after this layer of a load is there."""
        while self._is_waiting(command_id):  # the device takes them in order, and soon
            self.poll()
        copy = self._running.get(command_id)
        if copy is not None:
            self._transfer.hold_for_layer(copy.ticket, layer, stream)

    @property
    def is_idle(self) -> bool:
        """Whether no copy is under way."""
        return not (self._running or self._waiting[Load] or self._waiting[Store])

    def close(self) -> None:
        """Wait for what runs; what waits fails."""
        for copy in list(self._running.values()):
            self._transfer.wait(copy.ticket)
            self._end(copy)
        for queue in self._waiting.values():
            for copy in queue:
                command = copy.command
                self._native.end_outside(_kind(command), command.command_id, command.chunks, False)
            queue.clear()

    def _is_waiting(self, command_id: int) -> bool:
        return any(copy.command.command_id == command_id for copy in self._waiting[Load])

    def _start_waiting(self, kind: type) -> None:
        queue = self._waiting[kind]
        begin = self._transfer.load if kind is Load else self._transfer.store
        while queue:
            chunks = queue[0].command.chunks
            copy = queue[0]
            copy.ticket = begin(
                self._addresses(chunks),
                chunks["num_tokens"].astype(np.int32),
                chunks["first"].astype(np.int32),
                chunks["count"].astype(np.int32),
                copy.command.slots,
                self._stream,
            )
            if copy.ticket is None:
                return
            self._running[copy.command.command_id] = queue.popleft()

    def _addresses(self, chunks: ChunkArray) -> NDArray[np.uint64]:
        offsets = chunks["memory_offset"].astype(np.uint64) * np.uint64(self._unit_bytes)
        return offsets + np.uint64(self._pool_address)

    def _end(self, copy: _Copy) -> None:
        command = copy.command
        del self._running[command.command_id]
        self._native.end_outside(_kind(command), command.command_id, command.chunks, True)


def _kind(command: Store | Load) -> _native.CommandKind:
    return _native.CommandKind.LOAD if isinstance(command, Load) else _native.CommandKind.STORE


def _load_module() -> Any:
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
