"""vLLM's KV cache as radixkv sees it: the one place that knows how vLLM arranges a block.

Two forms. Where a block's inside is known, each token's rows are radixkv's own, as every engine's
are, and a match may end at any token:

    a block, NHD    [token 0: head 0 K|V, head 1 K|V, …][token 1: …] …        a row of K is made of
    a block, HND    [head 0: token 0 K|V, token 1 K|V, …][head 1: …] …        the heads' pieces

So the kernels of a GPU keep it, and joint latents (MLA) lie so everywhere, with one row a token.
Elsewhere the attention kernel arranges bytes as it likes: a CPU's has K transposed, so that no run
of bytes belongs to one token. There blocks move whole, and a row is only a block's bytes divided by
its tokens.

A model some of whose layers attend to a window only has several groups of layers, each with blocks
of its own out of one pool: a block's bytes hold the first layers' KV of one group or of another.

    pool, layer 0 of a group    [block 0: group A's layer 0][block 1: group B's layer 0] …
          layer 1 of a group    [block 0: group A's layer 1][block 1: group B's layer 1] …

So one description of the memory serves all groups; a group with fewer layers leaves bytes unused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import MLAAttentionSpec, SlidingWindowSpec

from radixkv import EngineMemory, KVLayout, Load, Store, UnsupportedError

_PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_KNOWN_BACKENDS = (None, "FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers whose blocks vLLM hands out together.

    Attributes:
        layer_names: In the order in which they are stored.
        window: Tokens that one attends to, itself among them; None for all before it.
    """

    layer_names: tuple[str, ...]
    window: int | None


def find_groups(kv_cache_config: Any) -> tuple[LayerGroup, ...]:
    """The engine's groups, in vLLM's order."""
    return tuple(
        LayerGroup(
            tuple(group.layer_names),
            group.kv_cache_spec.sliding_window
            if isinstance(group.kv_cache_spec, SlidingWindowSpec)
            else None,
        )
        for group in kv_cache_config.kv_cache_groups
    )


def describe_blocks(vllm_config: Any, kv_cache_config: Any) -> KVLayout:
    """The KV of a token on one rank, as the scheduler and the workers both can tell it."""
    groups = kv_cache_config.kv_cache_groups
    spec = groups[0].kv_cache_spec
    num_layers = max(len(group.layer_names) for group in groups)
    dtype = str(spec.dtype).removeprefix("torch.")
    row_bytes = spec.num_kv_heads * spec.head_size * spec.dtype.itemsize
    num_kv = 1 if isinstance(spec, MLAAttentionSpec) else 2
    is_plain = (
        spec.dtype in _PLAIN_DTYPES
        and (num_kv == 1 or getattr(spec, "head_size_v", None) in (None, spec.head_size))
        and spec.page_size_bytes == spec.block_size * num_kv * row_bytes
    )
    if is_plain and (num_kv == 1 or _keeps_heads_joined(vllm_config)):
        return KVLayout(num_layers, num_kv, row_bytes, dtype)
    return KVLayout(
        num_layers=num_layers,
        num_kv=1,
        row_bytes=spec.page_size_bytes // spec.block_size,
        dtype=f"{dtype} in vLLM's blocks",
        block_tokens=spec.block_size,
    )


def _keeps_heads_joined(vllm_config: Any) -> bool:
    """Whether the attention kernel keeps each head's K beside its V, token by token."""
    backend = getattr(getattr(vllm_config, "attention_config", None), "backend", None)
    name = getattr(backend, "name", backend)
    return bool(current_platform.is_cuda()) and name in _KNOWN_BACKENDS


def slots_of(command: Store | Load) -> NDArray[np.int64]:
    """A command's slots, counted through all blocks."""
    assert isinstance(command.slots, np.ndarray)
    return command.slots


def blocks_between(blocks: list[int], block_tokens: int, first: int, last: int) -> list[int]:
    """Those of a request's blocks that hold its positions first … last − 1."""
    return blocks[first // block_tokens : -(-last // block_tokens)]


def block_slots(blocks: list[int], block_tokens: int, first: int, last: int) -> NDArray[np.int64]:
    """Slots of a request's positions first … last − 1, counted through all blocks.

    Args:
        blocks: The request's blocks, from its first token on.
        block_tokens: Tokens in a block.
        first: First position.
        last: End of the positions.

    Returns:
        Shape (last − first,), int64.
    """
    return slots_in(blocks_between(blocks, block_tokens, first, last), block_tokens, first, last)


def slots_in(blocks: list[int], block_tokens: int, first: int, last: int) -> NDArray[np.int64]:
    """As `block_slots`, of the blocks that hold the positions alone."""
    slots = np.add.outer(np.array(blocks, np.int64) * block_tokens, np.arange(block_tokens))
    before = first // block_tokens * block_tokens
    return slots.reshape(-1)[first - before : last - before]


def find_memory(
    layout: KVLayout,
    block_tokens: int,
    groups: tuple[LayerGroup, ...],
    kv_caches: Mapping[str, torch.Tensor],
    num_blocks: int,
) -> EngineMemory:
    """Where a worker's slots are, counted through all blocks.

    Args:
        layout: From `describe_blocks`.
        block_tokens: Tokens in one of vLLM's blocks.
        groups: The layers.
        kv_caches: vLLM's tensor of each layer.
        num_blocks: Blocks in each.

    Raises:
        UnsupportedError: A block does not lie as the layout says.
    """
    tensors = _shared_tensors(groups, kv_caches)
    if layout.block_tokens > 1:
        places = [_whole_blocks(tensor, num_blocks, layout) for tensor in tensors]
    else:
        places = [_rows(tensor, num_blocks * block_tokens, layout) for tensor in tensors]
    one = places[0]
    if len({(place.block_slots, place.num_pieces) for place in places}) > 1:
        raise UnsupportedError("radixkv: blocks lie differently from layer to layer")

    def each_row(strides: list[int]) -> NDArray[np.int64]:
        return np.repeat(np.array(strides, np.int64), layout.num_kv)

    starts = [place.address + kv * place.kv_step for place in places for kv in range(layout.num_kv)]
    return EngineMemory(
        addresses=np.array(starts, np.uint64),
        strides_bytes=each_row([place.block_step for place in places]),
        num_slots=num_blocks * block_tokens,
        owner=tuple(tensors),
        device=tensors[0].get_device() if tensors[0].is_cuda else None,
        block_slots=one.block_slots,
        slot_strides_bytes=each_row([place.slot_step for place in places]),
        num_pieces=one.num_pieces,
        piece_strides_bytes=(
            each_row([place.piece_step for place in places]) if one.num_pieces > 1 else None
        ),
    )


def _shared_tensors(
    groups: tuple[LayerGroup, ...], kv_caches: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """The tensors of the group with the most layers; those of the others are the same memory."""
    most = max(groups, key=lambda group: len(group.layer_names))
    tensors = [kv_caches[name] for name in most.layer_names]
    for group in groups:
        for name, tensor in zip(group.layer_names, tensors, strict=False):
            own = kv_caches[name]
            if (own.data_ptr(), own.shape, own.stride(), own.dtype) != (
                tensor.data_ptr(),
                tensor.shape,
                tensor.stride(),
                tensor.dtype,
            ):
                raise UnsupportedError(f"radixkv: {name} has memory that no other group shares")
    return tensors


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer's slots are; steps in bytes."""

    address: int
    block_slots: int
    block_step: int
    slot_step: int
    kv_step: int = 0
    num_pieces: int = 1
    piece_step: int = 0


def _rows(tensor: torch.Tensor, num_slots: int, layout: KVLayout) -> _Place:
    """Of a tensor that keeps each token's rows: [block, head, token, K|V], or without heads."""
    by_head = tensor.unsqueeze(1) if tensor.dim() == 3 else tensor
    item_bytes = tensor.element_size()
    steps = [stride * item_bytes for stride in by_head.stride()]
    shape = tuple(by_head.shape)
    is_as_expected = (
        len(shape) == 4
        and shape[0] * shape[2] == num_slots
        and shape[1] * shape[3] * item_bytes == layout.num_kv * layout.row_bytes
        and (layout.num_kv == 2 or shape[1] == 1)
        and steps[3] == item_bytes
    )
    if not is_as_expected:
        raise UnsupportedError(
            f"radixkv: expected rows of {layout.row_bytes} bytes, each head's K beside its V, of "
            f"{num_slots} tokens, got a tensor of shape {tuple(tensor.shape)} and strides "
            f"{tuple(tensor.stride())}"
        )
    return _Place(
        address=tensor.data_ptr(),
        block_slots=shape[2],
        block_step=steps[0],
        slot_step=steps[2],
        kv_step=shape[3] * item_bytes // 2,
        num_pieces=shape[1],
        piece_step=steps[1],
    )


def _whole_blocks(tensor: torch.Tensor, num_blocks: int, layout: KVLayout) -> _Place:
    """Of a tensor whose blocks are runs of bytes; a kernel's blocks may be parts of vLLM's."""
    parts, rest = divmod(tensor.shape[0], num_blocks)
    block_bytes = layout.row_bytes * layout.block_tokens
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
    return _Place(
        address=tensor.data_ptr(),
        block_slots=layout.block_tokens,
        block_step=tensor.stride(0) * parts * item_bytes,
        slot_step=layout.row_bytes,
    )
