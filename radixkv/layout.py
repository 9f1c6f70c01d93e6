"""The shape of a token's KV: as radixkv stores it, and where an engine keeps it.

Stored form of a chunk: `[layer][K,V][token][row]` (MLA: one row a layer, no K,V axis). A row is
`row_bytes` contiguous bytes of one layer's K (or V) of one token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT_ALIGNMENT = 4096
UNITS_PER_CHUNK = 16


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape of the KV of one token on one rank.

    Attributes:
        num_layers: Layers that keep KV.
        num_kv: 2 for K and V, 1 for a joint latent (MLA).
        row_bytes: Bytes of one token in one layer's K or V, at least 1.
        dtype: Name of the element type; only told apart, never interpreted.
        block_tokens: Tokens that move together or not at all. 1 where each token's rows are its
            own; where an engine arranges its blocks as it likes, the size of a block, and a row is
            an equal share of a block's bytes.
    """

    num_layers: int
    num_kv: int
    row_bytes: int
    dtype: str
    block_tokens: int = 1

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {self.num_layers}")
        if self.num_kv not in (1, 2):
            raise ValueError(f"num_kv: expected 1 (MLA) or 2 (K and V), got {self.num_kv}")
        if self.row_bytes < 1:
            raise ValueError(f"row_bytes: expected at least 1, got {self.row_bytes}")
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens: expected at least 1, got {self.block_tokens}")

    def whole_blocks(self, num_tokens: int) -> int:
        """`num_tokens`, rounded down to what can move."""
        return num_tokens // self.block_tokens * self.block_tokens

    @property
    def num_rows(self) -> int:
        """Rows of one token: layers times K and V."""
        return self.num_layers * self.num_kv

    @property
    def token_bytes(self) -> int:
        """Bytes of one token over all layers."""
        return self.num_rows * self.row_bytes

    def unit_bytes(self, chunk_tokens: int) -> int:
        """Size of a tier's unit: 1/16 of a full chunk, rounded up to 4 KiB."""
        share = -(-self.token_bytes * chunk_tokens // UNITS_PER_CHUNK)
        return -(-share // UNIT_ALIGNMENT) * UNIT_ALIGNMENT

    def extent_bytes(self, chunk_tokens: int) -> int:
        """What a full chunk takes of a tier: whole units."""
        unit_bytes = self.unit_bytes(chunk_tokens)
        return -(-self.token_bytes * chunk_tokens // unit_bytes) * unit_bytes

    def digest(self, chunk_tokens: int) -> bytes:
        """16 bytes that differ wherever stored bytes would mean something else."""
        text = (
            f"radixkv-layout-1|{self.num_layers}|{self.num_kv}|{self.row_bytes}|{self.dtype}"
            f"|{chunk_tokens}"
        )
        if self.block_tokens > 1:
            text += f"|blocks of {self.block_tokens}"
        return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class OpaqueLayout(KVLayout):
    """A layout of which only the digest and a token's size are known: enough to carry bytes about.

    Attributes:
        known_digest: What `digest` gives.
    """

    known_digest: bytes = b""

    @staticmethod
    def of_tokens(token_bytes: int, known_digest: bytes) -> OpaqueLayout:
        """Tokens of so many bytes, of the layout with this digest."""
        return OpaqueLayout(1, 1, token_bytes, "opaque", known_digest=known_digest)

    def digest(self, chunk_tokens: int) -> bytes:
        """That of the layout that it stands for."""
        return self.known_digest


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Where an engine keeps KV: one buffer for each layer's K and V, a slot for each token.

    Slots may lie in blocks, `block_slots` in each: slot s is number s % block_slots of block
    s // block_slots. A row may lie in pieces, such as each head's K beside its V; their order is
    that of the row's bytes.

    Attributes:
        addresses: Address of slot 0 of each buffer, order [layer][K,V]. Shape: (num_rows,), uint64.
        strides_bytes: From one block to the next. Shape: (num_rows,), int64.
        num_slots: Slots in each buffer; a slot outside 0 … num_slots − 1 is refused.
        owner: Kept alive as long as this object, such as the tensors behind the addresses.
        device: Number of the CUDA device that the addresses are on; None for host memory.
        forward_stream: CUDA stream on which the engine computes, as an integer. Copies begin after
            what it holds when they are queued.
        block_slots: Slots in a block; with 1 a block is a slot.
        slot_strides_bytes: From one slot to the next in its block; None where `block_slots` is 1.
            Shape: (num_rows,), int64.
        num_pieces: Pieces of equal length that a row lies in.
        piece_strides_bytes: From one piece to the next; None where `num_pieces` is 1. Shape:
            (num_rows,), int64.
    """

    addresses: NDArray[np.uint64]
    strides_bytes: NDArray[np.int64]
    num_slots: int
    owner: object = None
    device: int | None = None
    forward_stream: int = 0
    block_slots: int = 1
    slot_strides_bytes: NDArray[np.int64] | None = None
    num_pieces: int = 1
    piece_strides_bytes: NDArray[np.int64] | None = None


def describe_arrays(arrays: Sequence[Any], num_kv: int = 2) -> tuple[KVLayout, EngineMemory]:
    """Layout and addresses of KV that lies in numpy arrays or torch tensors.

    Args:
        arrays: One for each layer's K and V, order [layer][K,V] (or one a layer with `num_kv` 1).
            Shape: (num_slots, …); everything behind the first axis is a token's row, contiguous.
        num_kv: 2 for K and V, 1 for a joint latent (MLA).

    Raises:
        ValueError: The arrays differ in row size or dtype, a row is not contiguous, their number is
            not a multiple of `num_kv`, or one cannot be written: loads would all the same.
    """
    if num_kv not in (1, 2):
        raise ValueError(f"num_kv: expected 1 (MLA) or 2 (K and V), got {num_kv}")
    if not arrays or len(arrays) % num_kv:
        raise ValueError(f"arrays: expected a multiple of {num_kv}, got {len(arrays)}")
    rows = [_describe_rows(array) for array in arrays]
    kinds = {(row_bytes, dtype) for _, _, row_bytes, dtype in rows}
    if len(kinds) != 1:
        raise ValueError(f"arrays: expected rows of one size and dtype, got {sorted(kinds)}")
    row_bytes, dtype = kinds.pop()
    memory = EngineMemory(
        addresses=np.array([address for address, _, _, _ in rows], np.uint64),
        strides_bytes=np.array([stride for _, stride, _, _ in rows], np.int64),
        num_slots=min(len(array) for array in arrays),
        owner=tuple(arrays),
        device=_device_of(arrays[0]),
    )
    return KVLayout(len(arrays) // num_kv, num_kv, row_bytes, dtype), memory


def _device_of(array: Any) -> int | None:
    return int(array.get_device()) if getattr(array, "is_cuda", False) else None


def _describe_rows(array: Any) -> tuple[int, int, int, str]:
    """Address, slot stride in bytes, row bytes and dtype."""
    if isinstance(array, np.ndarray):
        if not array.flags.writeable or array.dtype.hasobject:
            raise ValueError("arrays: expected arrays of numbers that can be written")
        item_bytes, address = array.itemsize, array.ctypes.data
        strides = [stride // item_bytes for stride in array.strides]
    elif not hasattr(array, "data_ptr"):
        raise TypeError(f"arrays: expected numpy arrays or torch tensors, got {type(array)}")
    else:  # a torch tensor, told by what it can say of itself
        item_bytes, address = array.element_size(), array.data_ptr()
        strides = list(array.stride())
    shape = list(array.shape)
    if not shape:
        raise ValueError("arrays: expected an axis of slots, got a single number")
    wanted = [math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))]
    if any(
        size != 1 and stride != want
        for size, stride, want in zip(shape[1:], strides[1:], wanted, strict=True)
    ):
        raise ValueError(f"arrays: expected contiguous rows, got strides {strides} of {shape}")
    dtype = str(array.dtype).removeprefix("torch.")
    return address, strides[0] * item_bytes, math.prod(shape[1:]) * item_bytes, dtype
