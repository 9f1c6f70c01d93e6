"""The same KV in the memory of several engines' GPUs, stored out of each and loaded into each.

Runs where vLLM is. The tensors are as the engines make them on a GPU, but on the CPU: what is told
of them, addresses and strides, is told alike.

    SGLang   a tensor for each layer's K and V, (slot, head, width)
    vLLM     a tensor a layer, seen as (block, head, token, K beside V); in memory NHD (tokens
             first), HND (heads first), or with all layers of a block in one run
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

import sglang_ext.identity
import vllm_ext.identity
from radixkv import CacheConfig, EngineMemory, KVCache, KVLayout, Namespace, RankGroup
from sglang_ext.pool import describe_pool
from vllm_ext import layout as vllm_layout

NUM_LAYERS, NUM_HEADS, WIDTH, LATENT = 3, 4, 32, 96
BLOCK, NUM_BLOCKS = 16, 24
NUM_SLOTS = BLOCK * NUM_BLOCKS
NUM_TOKENS = 151  # of the prompt: two chunks and a tail, which ends inside a block
FIRST_LOADED = 5  # inside a block too
CONFIG = CacheConfig(memory_size_bytes=4 << 20, disk_size_bytes=16 << 20)
TOKENS = np.arange(NUM_TOKENS, dtype=np.uint32)
Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Engine:
    """One engine's KV memory, and what it takes its KV to belong to."""

    layout: KVLayout
    memory: EngineMemory
    tensors: Tensors
    name_space: Callable[[Path], Namespace]

    def store(self, cache: KVCache) -> None:
        assert cache.store(TOKENS, _slots(seed=2)) is not None
        assert cache.settle()

    def load(self, cache: KVCache) -> None:
        slots = _slots(seed=3)[FIRST_LOADED:]
        with cache.acquire(TOKENS) as handle:
            cache.load(handle, slots, FIRST_LOADED)
        cache.begin_loads()
        assert cache.settle()

    def rows(self, slots: np.ndarray) -> torch.Tensor:
        """Copies of all layers' rows. Shape: (layer, slot, K beside V by head, or the latent)."""
        return torch.stack([tensor[slots] for tensor in self._by_slot()])

    def clear(self) -> None:
        for tensor in self.tensors:
            tensor.zero_()

    def _by_slot(self) -> Tensors:
        if self.tensors[0].dim() == 4:  # vLLM's: block, head, token, K beside V
            return [tensor.transpose(1, 2).reshape(NUM_SLOTS, -1) for tensor in self.tensors]
        if len(self.tensors) == NUM_LAYERS:
            return [tensor.reshape(NUM_SLOTS, -1) for tensor in self.tensors]
        pairs = zip(self.tensors[:NUM_LAYERS], self.tensors[NUM_LAYERS:], strict=True)
        return [torch.cat(pair, dim=-1).reshape(NUM_SLOTS, -1) for pair in pairs]


def stored_forms(attention: str, model: str) -> dict[str, dict[str, Any]]:
    """Of each engine: its namespace, all that its memory tier holds after a store, and whether a
    load brings back what was stored, and nothing else.

    Args:
        attention: "heads" for K and V of several heads, "latent" for a joint latent.
        model: Folder of the model that the engines are said to run.
    """
    found = {}
    for name, make in MAKERS[attention].items():
        engine = make(_truth(attention))
        with KVCache(engine.layout, CONFIG, engine=engine.memory) as cache:
            engine.store(cache)
            executor = cache.executor
            pool = executor.read_memory(0, executor.memory_units * executor.unit_bytes)
            wanted = engine.rows(_slots(seed=2))[:, FIRST_LOADED:]
            engine.clear()
            engine.load(cache)
        loaded = _slots(seed=3)[FIRST_LOADED:]
        others = np.setdiff1d(np.arange(NUM_SLOTS), loaded)
        found[name] = {
            "namespace": engine.name_space(Path(model)).digest().hex(),
            "stored": hashlib.sha256(pool).hexdigest(),
            "is_empty": not any(pool),
            "comes_back": torch.equal(engine.rows(loaded), wanted)
            and not engine.rows(others).any(),
        }
    return found


def handed_over(model: str, folder: str) -> dict[str, bool]:
    """Whether what one engine left on disk is found by another, and is what it would compute."""
    found = {}
    names = list(MAKERS["heads"])
    for number, (writer, reader) in enumerate(
        (writer, reader) for writer in names for reader in names if "SGLang" in (writer, reader)
    ):
        config = CacheConfig(
            memory_size_bytes=CONFIG.memory_size_bytes,
            disk_size_bytes=CONFIG.disk_size_bytes,
            disk_path=Path(folder) / str(number),
        )
        one, other = (MAKERS["heads"][name](_truth("heads")) for name in (writer, reader))
        truth = other.rows(_slots(seed=2))[:, FIRST_LOADED:]
        other.clear()
        space = one.name_space(Path(model))
        with KVCache(one.layout, config, namespace=space, engine=one.memory) as cache:
            one.store(cache)
        space = other.name_space(Path(model))
        with KVCache(other.layout, config, namespace=space, engine=other.memory) as cache:
            is_found = cache.fetch(TOKENS) == NUM_TOKENS
            if is_found:
                other.load(cache)
        is_right = torch.equal(other.rows(_slots(seed=3)[FIRST_LOADED:]), truth)
        found[f"{writer} → {reader}"] = is_found and is_right
    return found


def _truth(attention: str) -> torch.Tensor:
    """Shape: (layer, slot, K or V, head, width), or (layer, slot, latent)."""
    inner = (2, NUM_HEADS, WIDTH) if attention == "heads" else (LATENT,)
    generator = torch.Generator().manual_seed(1)
    return torch.randn((NUM_LAYERS, NUM_SLOTS, *inner), generator=generator).to(torch.bfloat16)


def _slots(seed: int) -> np.ndarray:
    """Of the prompt's tokens: blocks at random places."""
    blocks = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(seed)).tolist()
    return vllm_layout.block_slots(blocks, BLOCK, 0, NUM_TOKENS)


# --- SGLang


def _sglang_heads(truth: torch.Tensor) -> Engine:
    keys, values = truth[:, :, 0].contiguous(), truth[:, :, 1].contiguous()
    pool = SimpleNamespace(k_buffer=list(keys), v_buffer=list(values))
    return _of_sglang(pool, [*keys, *values])


def _sglang_latent(truth: torch.Tensor) -> Engine:
    buffers = list(truth.unsqueeze(2).clone())
    return _of_sglang(SimpleNamespace(kv_buffer=buffers), buffers)


def _of_sglang(pool: Any, tensors: Tensors) -> Engine:
    layout, memory = describe_pool(pool, tp_worker=None)

    def name_space(model: Path) -> Namespace:
        args = SimpleNamespace(
            model_path=str(model),
            dtype="auto",
            kv_cache_dtype="auto",
            json_model_override_args="{}",
            load_format="auto",
            torchao_config="",
            model_impl="auto",
            tp_size=1,
        )
        return sglang_ext.identity.engine_namespace(args, layout, CONFIG, RankGroup(), math.inf)

    return Engine(layout, memory, tensors, name_space)


# --- vLLM


def _vllm(order: tuple[int, ...]) -> Callable[[torch.Tensor], Engine]:
    """vLLM's, with memory in this order of (layer, block, head, token, K beside V)."""

    def make(truth: torch.Tensor) -> Engine:
        joined = truth.reshape(NUM_LAYERS, NUM_BLOCKS, BLOCK, 2, NUM_HEADS, WIDTH)
        joined = joined.permute(0, 1, 4, 2, 3, 5).flatten(4)
        back = tuple(order.index(axis) for axis in range(5))
        spec = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=NUM_HEADS, head_size=WIDTH, dtype=torch.bfloat16
        )
        return _of_vllm(spec, list(joined.permute(order).contiguous().permute(back)))

    return make


def _vllm_latent(truth: torch.Tensor) -> Engine:
    spec = MLAAttentionSpec(
        block_size=BLOCK, num_kv_heads=1, head_size=LATENT, dtype=torch.bfloat16
    )
    return _of_vllm(spec, list(truth.clone().reshape(NUM_LAYERS, NUM_BLOCKS, BLOCK, LATENT)))


def _of_vllm(spec: Any, tensors: Tensors) -> Engine:
    names = [f"layer {number}" for number in range(NUM_LAYERS)]
    group = SimpleNamespace(layer_names=names, kv_cache_spec=spec)
    cache = SimpleNamespace(kv_cache_groups=[group], num_blocks=NUM_BLOCKS)
    with mock.patch.object(vllm_layout.current_platform, "is_cuda", return_value=True):
        layout = vllm_layout.describe_blocks(SimpleNamespace(), cache)
    groups = vllm_layout.find_groups(cache)
    settings: Any = SimpleNamespace(layout=layout, config=CONFIG, groups=groups)
    caches = dict(zip(names, tensors, strict=True))
    memory = vllm_layout.find_memory(layout, BLOCK, groups, caches, NUM_BLOCKS)

    def name_space(model: Path) -> Namespace:
        config = SimpleNamespace(
            model_config=SimpleNamespace(model=str(model), hf_config={}, hf_overrides={}),
            load_config=SimpleNamespace(load_format="auto"),
            cache_config=SimpleNamespace(cache_dtype="auto"),
            parallel_config=SimpleNamespace(tensor_parallel_size=1),
        )
        (space,) = vllm_ext.identity.engine_namespaces(config, cache, settings)
        return space

    return Engine(layout, memory, tensors, name_space)


MAKERS: dict[str, dict[str, Callable[[torch.Tensor], Engine]]] = {
    "heads": {
        "SGLang": _sglang_heads,
        "vLLM, NHD": _vllm((0, 1, 3, 2, 4)),
        "vLLM, HND": _vllm((0, 1, 2, 3, 4)),
        "vLLM, all layers in a block": _vllm((1, 0, 3, 2, 4)),
    },
    "latent": {"SGLang": _sglang_latent, "vLLM": _vllm_latent},
}
