"""What HiCache's host pools take from CUDA: pinned memory, and one of its copies.

Enough for `--hicache-io-backend direct --hicache-mem-layout layer_first`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch


def allocate(dims: Any, dtype: torch.dtype, device: Any, *, allocator: Any, **_: Any) -> Any:
    """Host memory that is not pinned: there is no driver to pin it for."""
    return allocator.allocate(dims, dtype=dtype, device=device)


def copy_tokens(
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """SGLang's `transfer_kv_direct`: the same tokens of several buffers."""
    for source, target in zip(src_layers, dst_layers, strict=True):
        target[dst_indices.long()] = source[src_indices.long()]


def nothing(*_: Any, **__: Any) -> None:
    """In place of giving back what was never pinned."""


def install() -> None:
    package = "sglang.srt.mem_cache"
    common = importlib.import_module(f"{package}.pool_host.common")
    common.ALLOC_MEMORY_FUNCS["cpu"] = allocate
    # Pools for heads and for joint latents have modules of their own, but in 0.5.15.
    are_apart = importlib.util.find_spec(f"{package}.pool_host.mha") is not None
    pools = ("pool_host.mha", "pool_host.mla") if are_apart else ("memory_pool_host",)
    for name in ("pool_host.common", "pool_host.base", *pools):
        module = importlib.import_module(f"{package}.{name}")
        vars(module)["_cuda_host_unregister"] = nothing
        if name in pools:
            vars(module)["transfer_kv_direct"] = copy_tokens
