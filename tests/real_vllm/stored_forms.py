"""The same KV in the memory layouts of several engines' GPUs, stored out of each and loaded back.

Runs where vLLM is. The tensors are as the engines make them on a GPU, but on the CPU: what is told
of them, addresses and strides, is told alike.

    SGLang   a tensor for each layer's K and V, (slot, head, width)
    vLLM     a tensor a layer, seen as (block, head, token, K beside V); in memory NHD (tokens
             first), HND (heads first), or with all layers of a block in one run
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

from radixkv import CacheConfig, EngineMemory, Executor, KVLayout, Planner, Store, TickRecord
from sglang_ext.pool import describe_pool
from vllm_ext import layout as vllm_layout

NUM_LAYERS, NUM_HEADS, WIDTH, LATENT = 3, 4, 32, 96
BLOCK, NUM_BLOCKS = 16, 24
NUM_SLOTS = BLOCK * NUM_BLOCKS
NUM_TOKENS = 151  # of the prompt: two chunks and a tail, which ends inside a block
TIMEOUT_S = 10.0
Tensors = list[torch.Tensor]


def stored_forms(attention: str) -> dict[str, dict[str, Any]]:
    """Of each layout: digest of the layout, stored bytes, and whether loads bring them back.

    Args:
        attention: "heads" for K and V of several heads, "latent" for a joint latent.
    """
    shape = (NUM_LAYERS, NUM_SLOTS, *((2, NUM_HEADS, WIDTH) if attention == "heads" else (LATENT,)))
    truth = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    makers = HEADS if attention == "heads" else LATENTS
    return {name: _round_trip(*make(truth)) for name, make in makers.items()}


def _round_trip(layout: KVLayout, memory: EngineMemory, tensors: Tensors) -> dict[str, Any]:
    blocks = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(2)).tolist()
    slots = vllm_layout.block_slots(blocks, BLOCK, 0, NUM_TOKENS)
    tokens = np.arange(NUM_TOKENS, dtype=np.uint32)
    kept = [tensor.clone() for tensor in tensors]
    config = CacheConfig(memory_size_bytes=4 << 20)
    planner = Planner.from_config(layout, config)
    with Executor.from_config(layout, config, group_id=bytes(16)) as executor:
        executor.attach(memory)

        def carry_out() -> list[Any]:
            commands = planner.take_commands()
            completions: list[Any] = []
            for command in commands:
                executor.submit(command)
            executor.begin_loads()
            while len(completions) < len(commands):
                executor.wait(TIMEOUT_S)
                completions += executor.poll()
            planner.apply(TickRecord(0, tuple(completions)))
            return commands

        planner.store(tokens, lambda first, last: slots[first:last], time=1)
        stored = b""
        for command in carry_out():
            assert isinstance(command, Store)
            for chunk in command.chunks:
                num_bytes = int(chunk["num_tokens"]) * layout.token_bytes
                stored += executor.read_memory(int(chunk["memory_offset"]), num_bytes)
        for tensor in tensors:
            tensor.zero_()
        with planner.acquire(tokens, limit=NUM_TOKENS, time=2) as handle:
            planner.load(handle, 5, slots[5:])  # begins and ends inside a block
        carry_out()
    is_loaded = torch.zeros(NUM_SLOTS, dtype=torch.bool)
    is_loaded[slots[5:]] = True
    return {
        "layout": layout.digest(64).hex(),
        "stored": stored.hex(),
        "comes_back": all(
            torch.equal(_by_slot(tensor)[is_loaded], _by_slot(was)[is_loaded])
            and not _by_slot(tensor)[~is_loaded].any()
            for tensor, was in zip(tensors, kept, strict=True)
        ),
    }


def _by_slot(tensor: torch.Tensor) -> torch.Tensor:
    """Any layout's tensor with one row a slot."""
    if tensor.dim() == 4:  # vLLM's: block, head, token, K beside V
        return tensor.transpose(1, 2).reshape(NUM_SLOTS, -1)
    return tensor.reshape(NUM_SLOTS, -1)


# --- the layouts


def _sglang_heads(truth: torch.Tensor) -> tuple[KVLayout, EngineMemory, Tensors]:
    keys, values = truth[:, :, 0].contiguous(), truth[:, :, 1].contiguous()
    pool = SimpleNamespace(k_buffer=list(keys), v_buffer=list(values))
    layout, memory = describe_pool(pool, tp_worker=None)
    return layout, memory, [*keys, *values]


def _sglang_latent(truth: torch.Tensor) -> tuple[KVLayout, EngineMemory, Tensors]:
    buffers = list(truth.unsqueeze(2).clone())
    layout, memory = describe_pool(SimpleNamespace(kv_buffer=buffers), tp_worker=None)
    return layout, memory, buffers


def _vllm(order: tuple[int, ...]) -> Callable[[torch.Tensor], Any]:
    """vLLM's, with memory in this order of (layer, block, head, token, K beside V)."""

    def make(truth: torch.Tensor) -> tuple[KVLayout, EngineMemory, Tensors]:
        joined = truth.reshape(NUM_LAYERS, NUM_BLOCKS, BLOCK, 2, NUM_HEADS, WIDTH)
        joined = joined.permute(0, 1, 4, 2, 3, 5).flatten(4)
        back = tuple(order.index(axis) for axis in range(5))
        spec = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=NUM_HEADS, head_size=WIDTH, dtype=torch.bfloat16
        )
        return _of_vllm(spec, list(joined.permute(order).contiguous().permute(back)))

    return make


def _vllm_latent(truth: torch.Tensor) -> tuple[KVLayout, EngineMemory, Tensors]:
    spec = MLAAttentionSpec(
        block_size=BLOCK, num_kv_heads=1, head_size=LATENT, dtype=torch.bfloat16
    )
    blocks = truth.clone().reshape(NUM_LAYERS, NUM_BLOCKS, BLOCK, LATENT)
    return _of_vllm(spec, list(blocks))


def _of_vllm(spec: Any, tensors: Tensors) -> tuple[KVLayout, EngineMemory, Tensors]:
    names = [f"layer {number}" for number in range(NUM_LAYERS)]
    group = SimpleNamespace(layer_names=names, kv_cache_spec=spec)
    cache = SimpleNamespace(kv_cache_groups=[group], num_blocks=NUM_BLOCKS)
    config = SimpleNamespace(attention_config=SimpleNamespace(backend=None))
    with mock.patch.object(vllm_layout.current_platform, "is_cuda", return_value=True):
        layout = vllm_layout.describe_blocks(config, cache)
    caches = dict(zip(names, tensors, strict=True))
    return layout, vllm_layout.find_memory(layout, BLOCK, names, caches, NUM_BLOCKS), tensors


HEADS: dict[str, Callable[[torch.Tensor], Any]] = {
    "SGLang": _sglang_heads,
    "vLLM, NHD": _vllm((0, 1, 3, 2, 4)),
    "vLLM, HND": _vllm((0, 1, 2, 3, 4)),
    "vLLM, all layers in a block": _vllm((1, 0, 3, 2, 4)),
}
LATENTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "SGLang": _sglang_latent,
    "vLLM": _vllm_latent,
}
