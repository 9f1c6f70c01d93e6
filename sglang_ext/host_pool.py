"""HiCache's host pool as engine memory: pages move between it and radixkv without a detour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radixkv import EngineMemory, KVLayout, UnsupportedError, describe_arrays

_POOLS = ("MHATokenToKVPoolHost", "MLATokenToKVPoolHost")


@dataclass(frozen=True, slots=True)
class HostPoolMemory:
    """Where a host pool keeps its tokens.

    Attributes:
        layout: The KV of one token.
        memory: Addresses of its rows.
        slots_of: Gives the slots of tokens from their indices in the pool, as SGLang names them.
    """

    layout: KVLayout
    memory: EngineMemory
    slots_of: Callable[[torch.Tensor], NDArray[np.int64]]


def describe_host_pool(pool: Any) -> HostPoolMemory:
    """Layout and addresses of a pool for plain attention or a joint latent.

    Raises:
        UnsupportedError: The pool keeps more than that, or keeps it in another order.
    """
    if type(pool).__name__ not in _POOLS:
        raise UnsupportedError(
            f"radixkv: the host pool {type(pool).__name__} is not served as storage, only "
            f"{' and '.join(_POOLS)}"
        )
    num_kv = 1 if type(pool).__name__.startswith("MLA") else 2
    parts = [pool.kv_buffer] if num_kv == 1 else list(pool.kv_buffer)
    num_layers: int = pool.layer_num
    if pool.layout == "layer_first":  # [layer][token] of each part
        arrays = [part[layer] for layer in range(num_layers) for part in parts]
        slots_of = _same
    elif pool.layout == "page_first":  # [token][layer]
        arrays = [part[:, layer] for layer in range(num_layers) for part in parts]
        slots_of = _same
    elif pool.layout == "page_first_direct":  # [page][layer][token]
        page_size: int = pool.page_size
        flat = [part.flatten(0, 2) for part in parts]
        arrays = [part[layer * page_size :] for layer in range(num_layers) for part in flat]

        def slots_of(indices: torch.Tensor) -> NDArray[np.int64]:
            page, in_page = np.divmod(_same(indices), page_size)
            slots: NDArray[np.int64] = page * (num_layers * page_size) + in_page
            return slots
    else:
        raise UnsupportedError(
            f"radixkv: --hicache-mem-layout {pool.layout} is not served as storage, only "
            "layer_first, page_first and page_first_direct"
        )
    layout, memory = describe_arrays(arrays, num_kv)
    return HostPoolMemory(layout, memory, slots_of)


def _same(indices: torch.Tensor) -> NDArray[np.int64]:
    slots: NDArray[np.int64] = indices.to(dtype=torch.int64, device="cpu").numpy()
    return slots
