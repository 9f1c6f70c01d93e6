"""What the GPU benchmarks share: 2 GiB of an 8B model's KV in pinned chunks, and engines for it."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radixkv import _cuda

NUM_LAYERS, NUM_KV, NUM_HEADS, HEAD_BYTES = 32, 2, 8, 256
ROW_BYTES = NUM_HEADS * HEAD_BYTES
NUM_ROWS = NUM_LAYERS * NUM_KV
CHUNK_TOKENS = 64
NUM_CHUNKS = 256
NUM_TOKENS = NUM_CHUNKS * CHUNK_TOKENS
CHUNK_BYTES = CHUNK_TOKENS * NUM_ROWS * ROW_BYTES
TOTAL_BYTES = NUM_CHUNKS * CHUNK_BYTES
VLLM_BLOCK = 16

LOAD, STORE = _cuda.Direction.LOAD, _cuda.Direction.STORE


class Chunks:
    """Pinned chunks with random bytes, and the same bytes on the GPU to compare with."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        words = torch.randint(-(2**62), 2**62, (TOTAL_BYTES // 8,), device="cuda")
        self.truth = words.view(torch.uint8)
        self.pinned = torch.empty(TOTAL_BYTES, dtype=torch.uint8, pin_memory=True)
        self.pinned.copy_(self.truth)

    def arguments(
        self, slots: NDArray[np.int64], num_chunks: int = NUM_CHUNKS
    ) -> tuple[NDArray[Any], ...]:
        """Whole chunks, as load() and store() take them."""
        full = np.full(num_chunks, CHUNK_TOKENS, np.int32)
        begin = self.pinned.data_ptr()
        addresses = np.arange(begin, begin + num_chunks * CHUNK_BYTES, CHUNK_BYTES, np.uint64)
        return addresses, full, np.zeros_like(full), full, slots[: num_chunks * CHUNK_TOKENS]

    def rows(self, chunks: torch.Tensor) -> torch.Tensor:
        """Shape: (row, token, head, byte)."""
        shape = (NUM_CHUNKS, NUM_ROWS, CHUNK_TOKENS, NUM_HEADS, HEAD_BYTES)
        return chunks.view(shape).transpose(0, 1).flatten(1, 2)


@dataclass
class Engine:
    """Engine memory, its layout, and a view on each row. Shape: (block, slot in it, head, byte)."""

    memory: torch.Tensor
    layout: Any
    rows: list[torch.Tensor]

    def read(self, row: int, slots: torch.Tensor) -> torch.Tensor:
        """Shape: (slot, head, byte)."""
        block_slots = self.rows[row].shape[1]
        return self.rows[row][slots // block_slots, slots % block_slots]


def paged_engine() -> Engine:
    """SGLang's: a buffer for each layer's K and V, slots side by side, whatever the page."""
    memory = torch.empty((NUM_ROWS, NUM_TOKENS, NUM_HEADS, HEAD_BYTES), dtype=torch.uint8).cuda()
    addresses = np.array([row.data_ptr() for row in memory], np.uint64)
    strides = np.full(NUM_ROWS, ROW_BYTES)
    layout = _cuda.EngineLayout(addresses, strides, num_slots=NUM_TOKENS, row_bytes=ROW_BYTES)
    return Engine(memory, layout, list(memory[:, :, None]))


def vllm_engine(heads_first: bool) -> Engine:
    """vLLM's FlashAttention: blocks of 16, each head's K beside its V, NHD or HND."""
    num_blocks = NUM_TOKENS // VLLM_BLOCK
    inner = (NUM_HEADS, VLLM_BLOCK) if heads_first else (VLLM_BLOCK, NUM_HEADS)
    shape = (NUM_LAYERS, num_blocks, *inner, NUM_KV, HEAD_BYTES)
    memory = torch.empty(shape, dtype=torch.uint8, device="cuda")
    by_slot = memory.transpose(2, 3) if heads_first else memory
    layers = [layer.data_ptr() for layer in memory]
    addresses = np.array([at + kv * HEAD_BYTES for at in layers for kv in range(NUM_KV)], np.uint64)
    layout = _cuda.EngineLayout(
        addresses,
        np.full(NUM_ROWS, by_slot.stride(1)),
        num_slots=NUM_TOKENS,
        row_bytes=ROW_BYTES,
        block_slots=VLLM_BLOCK,
        slot_strides=np.full(NUM_ROWS, by_slot.stride(2)),
        num_pieces=NUM_HEADS,
        piece_strides=np.full(NUM_ROWS, by_slot.stride(3)),
    )
    rows = [layer[:, :, :, kv] for layer in by_slot for kv in range(NUM_KV)]
    return Engine(memory, layout, rows)


def random_slots(page: int) -> NDArray[np.int64]:
    """A slot for each token: pages of `page` tokens at random places."""
    pages = np.random.default_rng(page).permutation(NUM_TOKENS // page)
    return (pages[:, None] * page + np.arange(page)).reshape(-1)


def check(engine: Engine, chunks: Chunks, run: Callable[[Any], None], slots: NDArray[Any]) -> None:
    """Runs a load and a store and compares every byte of both."""
    where = torch.from_numpy(slots).cuda()
    engine.memory.fill_(0xEE)
    torch.cuda.synchronize()
    run(LOAD)
    torch.cuda.synchronize()
    truth = chunks.rows(chunks.truth)
    assert all(torch.equal(engine.read(row, where), truth[row]) for row in range(NUM_ROWS))
    chunks.pinned.fill_(0xEE)
    run(STORE)
    torch.cuda.synchronize()
    assert torch.equal(chunks.pinned.cuda(), chunks.truth)


@functools.cache
def circumstances() -> dict[str, object]:
    """What a row of a GPU benchmark carries beside the harness's own."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": driver.strip().partition("\n")[0],
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }
