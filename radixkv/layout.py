"""The shape of a token's KV: as radixkv stores it, and where an engine keeps it.

Stored form of a chunk: `[layer][K,V][token][row]` (MLA: one row a layer, no K,V axis). A row is
`row_bytes` contiguous bytes of one layer's K (or V) of one token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

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
    """

    num_layers: int
    num_kv: int
    row_bytes: int
    dtype: str

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {self.num_layers}")
        if self.num_kv not in (1, 2):
            raise ValueError(f"num_kv: expected 1 (MLA) or 2 (K and V), got {self.num_kv}")
        if self.row_bytes < 1:
            raise ValueError(f"row_bytes: expected at least 1, got {self.row_bytes}")

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

    def digest(self, chunk_tokens: int) -> bytes:
        """16 bytes that differ wherever stored bytes would mean something else."""
        text = (
            f"radixkv-layout-1|{self.num_layers}|{self.num_kv}|{self.row_bytes}|{self.dtype}"
            f"|{chunk_tokens}"
        )
        return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Where an engine keeps KV: one buffer for each layer's K and V, a slot for each token.

    Attributes:
        addresses: Address of slot 0 of each buffer, order [layer][K,V]. Shape: (num_rows,), uint64.
        strides_bytes: From one slot to the next. Shape: (num_rows,), int64.
        num_slots: Slots in each buffer; a slot outside 0 … num_slots − 1 is refused.
        owner: Kept alive as long as this object, such as the tensors behind the addresses.
    """

    addresses: NDArray[np.uint64]
    strides_bytes: NDArray[np.int64]
    num_slots: int
    owner: object = None
