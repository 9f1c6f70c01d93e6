"""vLLM's KV cache as radixkv sees it.

    a layer      [ block 0 | block 1 | … ]          a block    block_size equal shares, the "rows"

Inside a block vLLM arranges bytes as the attention kernel likes: on the CPU K lies transposed, so
that no run of bytes belongs to one token. So blocks move whole, and a row is only a block's bytes
divided by its tokens. This module is where an engine layout whose rows do belong to tokens, and
could be shared with another engine, would be described as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radixkv import EngineMemory, KVLayout, Load, Store, UnsupportedError


def describe_blocks(kv_cache_config: Any) -> KVLayout:
    """The KV of a token on one rank, as the scheduler and the workers both can tell it."""
    group = kv_cache_config.kv_cache_groups[0]
    spec = group.kv_cache_spec
    return KVLayout(
        num_layers=len(group.layer_names),
        num_kv=1,
        row_bytes=spec.page_size_bytes // spec.block_size,
        dtype=f"{str(spec.dtype).removeprefix('torch.')} in vLLM's blocks",
        block_tokens=spec.block_size,
    )


def slots_of(command: Store | Load) -> NDArray[np.int64]:
    """A command's slots, counted through all blocks: vLLM's scheduler knows them all."""
    assert isinstance(command.slots, np.ndarray)
    return command.slots


def block_slots(blocks: list[int], block_tokens: int, first: int, last: int) -> NDArray[np.int64]:
    """Slots of a request's positions first … last − 1, counted through all blocks.

    Args:
        blocks: The request's blocks, from its first token on.
        block_tokens: Tokens in a block.
        first: First position, a whole number of blocks.
        last: End of the positions, a whole number of blocks.

    Returns:
        Shape (last − first,), int64.
    """
    ids = np.array(blocks[first // block_tokens : last // block_tokens], np.int64)
    return (ids[:, None] * block_tokens + np.arange(block_tokens)).reshape(-1)


class BlockMemory:
    """Where a worker's blocks are.

    Args:
        layout: From `describe_blocks`.
        layer_names: The layers, in the order in which they are stored.
        kv_caches: vLLM's tensor of each layer.
        num_blocks: Blocks in each.

    Raises:
        UnsupportedError: A block is not one run of bytes, or not of the size that the layout says.
    """

    def __init__(
        self,
        layout: KVLayout,
        layer_names: list[str],
        kv_caches: Mapping[str, torch.Tensor],
        num_blocks: int,
    ) -> None:
        tensors = [kv_caches[name] for name in layer_names]
        block_bytes = layout.row_bytes * layout.block_tokens
        strides = {_block_stride_bytes(tensor, num_blocks, block_bytes) for tensor in tensors}
        stride = strides.pop()
        if strides or stride % layout.row_bytes:
            raise UnsupportedError("radixkv: blocks lie differently from layer to layer")
        self._block_tokens = layout.block_tokens
        self._slots_per_block = stride // layout.row_bytes
        device = tensors[0].get_device() if tensors[0].is_cuda else None
        stream = 0 if device is None else int(torch.cuda.current_stream(device).cuda_stream)
        self.engine = EngineMemory(
            addresses=np.array([tensor.data_ptr() for tensor in tensors], np.uint64),
            strides_bytes=np.full(len(tensors), layout.row_bytes, np.int64),
            num_slots=(num_blocks - 1) * self._slots_per_block + layout.block_tokens,
            owner=tuple(tensors),
            device=device,
            forward_stream=stream,
        )

    def place(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots as the executor counts them: with what lies between two blocks of a layer."""
        if self._slots_per_block == self._block_tokens:
            return slots
        block, within = np.divmod(slots, self._block_tokens)
        return block * self._slots_per_block + within


def _block_stride_bytes(tensor: torch.Tensor, num_blocks: int, block_bytes: int) -> int:
    """Bytes from one of vLLM's blocks to the next; a kernel's blocks may be parts of them."""
    parts, rest = divmod(tensor.shape[0], num_blocks)
    item_bytes = tensor.element_size()
    part_items = math.prod(tensor.shape[1:])
    extent = 1 + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
    )
    is_one_run = extent == part_items and (parts == 1 or tensor.stride(0) == part_items)
    if rest or not is_one_run or parts * part_items * item_bytes != block_bytes:
        raise UnsupportedError(
            f"radixkv: expected blocks of {block_bytes} bytes in one run, got a tensor of shape "
            f"{tuple(tensor.shape)} and strides {tuple(tensor.stride())} for {num_blocks} blocks"
        )
    stride_bytes: int = tensor.stride(0) * parts * item_bytes
    return stride_bytes
