"""Commands and completions: what the control plane asks of the data plane, and what it hears back.

All are plain values. A command names chunks by (id, generation, extent), token ranges and engine
slots, never pointers, so that it means the same on every rank. A command's chunks lie on one path,
parents first; a completion therefore needs one number: how many of them, counted from the front,
are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_EXTENT = 0xFFFFFFFF

CHUNK_DTYPE = np.dtype(
    [
        ("id", "<u4"),
        ("generation", "<u4"),
        ("memory_offset", "<u4"),  # first unit in the memory tier, or NO_EXTENT
        ("disk_offset", "<u4"),  # first unit in the disk tier, or NO_EXTENT
        ("parent_disk_offset", "<u4"),  # the parent chunk's, or NO_EXTENT for the first of a prompt
        ("span", "<u4"),  # the chunk's first token is at span * chunk_tokens
        ("num_tokens", "<u2"),  # tokens in the chunk
        ("num_units", "<u2"),  # units that its extents span
        ("first", "<u2"),  # the slice meant: tokens first … first + count − 1 of the chunk
        ("count", "<u2"),
    ]
)
"""One chunk in a command, or one slice of a match. 32 bytes, as `ChunkRef` in csrc/core."""

ChunkArray = NDArray[np.void]

Tokens = Any
"""Token ids: a contiguous buffer of int32, int64 or uint32, such as an array or a numpy array."""


class CompletionStatus(IntEnum):
    """Why a command ended; whatever it was, `num_ok` chunks are good."""

    OK = 0
    FAILED = 1  # the operating system refused, or the tier is cut off
    CORRUPT = 2  # the chunk at `num_ok` did not match its checksum or generation
    FULL = 3  # the device has no room
    ABSENT = 4  # the tier does not have the chunk at `num_ok`


@dataclass(frozen=True, slots=True)
class DeviceSlots:
    """Engine slots that the CPU does not know yet: an int64 array on the engine's GPU.

    Attributes:
        address: Of the array on the device.
        num_slots: Its length.
        stream: CUDA stream in whose order the array is complete, as an integer.
        owner: Keeps the array.
    """

    address: int
    num_slots: int
    stream: int
    owner: object

    def __len__(self) -> int:
        return self.num_slots


EngineSlots = NDArray[np.int64] | DeviceSlots
"""The engine's slot of each token. On a GPU both kinds do, elsewhere arrays alone."""

SlotSource = Callable[[int, int], EngineSlots]
"""Engine slots of the prompt's positions first … last − 1. Shape (last − first,), int64."""


def slot_source(slots: NDArray[np.int64] | SlotSource, num_tokens: int) -> SlotSource:
    """A function that gives slots, from itself or from an array of them.

    Raises:
        TypeError: It is neither.
        ValueError: The array does not cover so many tokens.
    """
    if callable(slots):
        return slots
    if not isinstance(slots, np.ndarray):
        raise TypeError(f"slots: expected an int64 array or a function, got {type(slots)}")
    if slots.dtype != np.int64 or slots.ndim != 1 or len(slots) < num_tokens:
        raise ValueError(f"slots: expected int64 ({num_tokens},), got {slots.dtype} {slots.shape}")
    return lambda first, last: slots[first:last]


@dataclass(frozen=True, slots=True)
class Store:
    """Engine → memory. `slots` has an engine slot for each token of each slice, in order.

    `is_computed` says that the KV is there already: the copy need not begin behind what the engine
    has queued on its stream since.
    """

    command_id: int
    chunks: ChunkArray
    slots: EngineSlots
    is_computed: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Memory → engine, layer by layer. `slots` as in `Store`."""

    command_id: int
    chunks: ChunkArray
    slots: EngineSlots


@dataclass(frozen=True, slots=True)
class Plant:
    """Bytes in stored form → memory: what another cache exported.

    `payloads` has a chunk's bytes each, from the first on; those that are missing fail.
    """

    command_id: int
    chunks: ChunkArray
    payloads: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Spill:
    """Memory → disk. `tokens` has every chunk's tokens one after the other.

    `namespace` is the 16-byte digest from which a prompt's first key is made; `sequence` numbers
    the first chunk, the following ones count up.
    """

    command_id: int
    chunks: ChunkArray
    tokens: NDArray[np.uint32]
    namespace: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Disk → memory."""

    command_id: int
    chunks: ChunkArray


@dataclass(frozen=True, slots=True)
class Clear:
    """Make dropped chunks unfindable on disk, so that a restart does not bring them back."""

    command_id: int
    chunks: ChunkArray


@dataclass(frozen=True, slots=True)
class Put:
    """Memory → a remote server, as far as it lacks the chunks.

    `tokens` has every chunk's tokens one after the other; `parent_key` is the content key of the
    chunk before the first, from which theirs follow; `remote` is the server's place in the
    configuration.
    """

    command_id: int
    remote: int
    chunks: ChunkArray
    tokens: NDArray[np.uint32]
    parent_key: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """A remote server → memory. Fields as in `Put`."""

    command_id: int
    remote: int
    chunks: ChunkArray
    tokens: NDArray[np.uint32]
    parent_key: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    """Ask a remote server how far it has these tokens, which follow the chunk with `parent_key`.

    Moves no chunk. Its completion's `num_ok` counts tokens.
    """

    command_id: int
    remote: int
    tokens: NDArray[np.uint32]
    parent_key: bytes
    chunks: ChunkArray = field(default_factory=lambda: np.empty(0, CHUNK_DTYPE))


Command = Store | Load | Plant | Spill | Fetch | Clear | Put | Get | Lookup


@dataclass(frozen=True, slots=True)
class Completion:
    """A command ended: its first `num_ok` chunks are done, the rest are not."""

    command_id: int
    num_ok: int
    status: CompletionStatus
