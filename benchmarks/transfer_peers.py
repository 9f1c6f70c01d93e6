"""What others move KV between pinned memory and a GPU with, on the same engine memory as ours.

SGLang's kernels, compiled by itself or shipped in sgl_kernel, and LMCache's. Each keeps its bytes
in the form that it wants. One that cannot be imported is named and left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from gpu_engine import HEAD_BYTES, NUM_HEADS, NUM_LAYERS, NUM_TOKENS, ROW_BYTES, Engine
from harness import progress

ROW_ITEMS = NUM_HEADS * HEAD_BYTES // 2  # of bfloat16
LMCACHE_CHUNK = 256  # tokens, its default


class Peer(Protocol):
    """Both calls are queued on the current stream."""

    host: torch.Tensor

    def load(self) -> None: ...
    def store(self) -> None: ...


def device_rows(engine: Engine) -> torch.Tensor:
    """Shape: (layer, K or V, slot, item)."""
    rows = engine.memory.view(torch.bfloat16)
    return rows.view(NUM_LAYERS, 2, NUM_TOKENS, ROW_ITEMS)


def addresses(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([row.data_ptr() for row in rows], dtype=torch.uint64, device="cuda")


class SGLangKernel:
    """Its host memory is (K or V, layer, token, row): "layer_first", its fastest to load."""

    def __init__(self, engine: Engine, slots: torch.Tensor) -> None:
        self._device = device_rows(engine)
        self._slots = slots
        shape = (2, NUM_LAYERS, NUM_TOKENS, ROW_ITEMS)
        self.host = torch.empty(shape, dtype=torch.bfloat16, pin_memory=True)
        self._places = torch.arange(NUM_TOKENS, device="cuda")
        self._device_addresses = [addresses(list(self._device[:, kv])) for kv in range(2)]
        self._host_addresses = [addresses(list(self.host[kv])) for kv in range(2)]

    def load(self) -> None:
        for layer, (keys, values) in enumerate(self._device):
            source = (self.host[0, layer], self.host[1, layer], self._places)
            self._load_layer((keys, values, self._slots), source)

    def _load_layer(self, target: tuple[Any, ...], source: tuple[Any, ...]) -> None:
        raise NotImplementedError


class SGLangJit(SGLangKernel):
    """The kernel that SGLang compiles when it starts."""

    def __init__(self, engine: Engine, slots: torch.Tensor) -> None:
        from sglang.jit_kernel import hicache

        super().__init__(engine, slots)
        self._kernels = hicache

    def _load_layer(self, target: tuple[Any, ...], source: tuple[Any, ...]) -> None:
        self._kernels.transfer_hicache_one_layer(*target, *source, element_dim=ROW_ITEMS)

    def store(self) -> None:
        self._kernels.transfer_hicache_all_layer(
            *self._host_addresses,
            self._places,
            *self._device_addresses,
            self._slots,
            kv_cache_src_stride_bytes=ROW_BYTES,
            kv_cache_dst_stride_bytes=ROW_BYTES,
            element_size=ROW_BYTES,
        )


class SglKernel(SGLangKernel):
    """The kernel in sgl_kernel, used where the other does not compile."""

    def __init__(self, engine: Engine, slots: torch.Tensor) -> None:
        from sgl_kernel import kvcacheio

        super().__init__(engine, slots)
        self._kernels = kvcacheio

    def _load_layer(self, target: tuple[Any, ...], source: tuple[Any, ...]) -> None:
        (keys, values, slots), (host_keys, host_values, places) = target, source
        self._kernels.transfer_kv_per_layer(
            host_keys, keys, host_values, values, places, slots, ROW_BYTES
        )

    def store(self) -> None:
        (keys, values), (host_keys, host_values) = self._device_addresses, self._host_addresses
        self._kernels.transfer_kv_all_layer(
            keys, host_keys, values, host_values, self._slots, self._places, ROW_BYTES, NUM_LAYERS
        )


class LMCache:
    """Chunks of 256 tokens, (K or V, layer, token, row); all layers of a chunk in one launch."""

    def __init__(self, engine: Engine, slots: torch.Tensor, *, is_staged: bool = False) -> None:
        from lmcache import c_ops

        self._ops = c_ops
        self._slots = slots
        device = device_rows(engine)
        rows = [row for kv in range(2) for row in device[:, kv]]
        self._addresses = torch.tensor([row.data_ptr() for row in rows], device="cuda")
        shape = (NUM_TOKENS // LMCACHE_CHUNK, 2, NUM_LAYERS, LMCACHE_CHUNK, ROW_ITEMS)
        self.host = torch.empty(shape, dtype=torch.bfloat16, pin_memory=True)
        self._stage = torch.empty(shape[1:], dtype=torch.bfloat16, device="cuda")
        self._is_staged = is_staged

    def load(self) -> None:
        for number, chunk in enumerate(self.host):
            if self._is_staged:
                chunk = self._stage.copy_(chunk, non_blocking=True)
            self._move(number, chunk, self._ops.TransferDirection.H2D)

    def store(self) -> None:
        for number, chunk in enumerate(self.host):
            target = self._stage if self._is_staged else chunk
            self._move(number, target, self._ops.TransferDirection.D2H)
            if self._is_staged:
                chunk.copy_(self._stage, non_blocking=True)

    def _move(self, number: int, chunk: torch.Tensor, direction: Any) -> None:
        self._ops.multi_layer_kv_transfer_unilateral(
            chunk,
            self._addresses,
            self._slots[number * LMCACHE_CHUNK :][:LMCACHE_CHUNK],
            self._slots.device,
            NUM_TOKENS,
            direction,
            self._ops.EngineKVFormat.TWO_X_NL_X_NBBS_NH_HS,
        )


def lmcache_staged(engine: Engine, slots: torch.Tensor) -> Peer:
    return LMCache(engine, slots, is_staged=True)


MAKERS: dict[str, Callable[[Engine, torch.Tensor], Peer]] = {
    "sglang_jit": SGLangJit,
    "sgl_kernel": SglKernel,
    "lmcache": LMCache,
    "lmcache_staged": lmcache_staged,
}


def importable_peers(engine: Engine, slots: torch.Tensor) -> dict[str, Peer]:
    """Those that are installed here and move every byte right. `slots`: on the device."""
    peers: dict[str, Peer] = {}
    for name, make in MAKERS.items():
        try:
            peer = make(engine, slots)
            check(peer, engine)
        except Exception as error:  # whatever a peer does, ours are measured
            progress(f"  {name} is left out: {type(error).__name__}: {error}")
            continue
        peers[name] = peer
    return peers


def check(peer: Peer, engine: Engine) -> None:
    """A store and a load must give back what the engine's memory had."""
    engine.memory.random_(0, 256)
    kept = engine.memory.clone()
    peer.host.zero_()
    peer.store()
    torch.cuda.synchronize()
    engine.memory.zero_()
    peer.load()
    torch.cuda.synchronize()
    if not torch.equal(engine.memory, kept):
        raise RuntimeError("what it stored is not what it loads")
