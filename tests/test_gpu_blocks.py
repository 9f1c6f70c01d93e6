"""Stores and loads where an engine's blocks keep each head's K beside its V, on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from radixkv import CacheConfig, EngineMemory, KVCache, KVLayout

_cuda = pytest.importorskip("radixkv._cuda", reason="built without nvcc")
if _cuda.why_unavailable():
    pytest.skip(f"needs a GPU: {_cuda.why_unavailable()}", allow_module_level=True)
torch = pytest.importorskip("torch", reason="needs torch for the engine's memory")

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
NUM_LAYERS, NUM_BLOCKS, BLOCK, NUM_HEADS, WIDTH = 3, 64, 16, 4, 64
NUM_TOKENS = 503  # ends inside a block
SLEEP_CYCLES = 100_000_000  # some 50 ms of a stream


class Engine:
    """A tensor a layer, seen as (block, token, head, K beside V), and a cache over them."""

    def __init__(self, heads_first: bool, path: str) -> None:
        inner = (NUM_HEADS, BLOCK) if heads_first else (BLOCK, NUM_HEADS)
        shape = (NUM_LAYERS, NUM_BLOCKS, *inner, 2 * WIDTH)
        memory = torch.randn(shape, device=DEVICE, dtype=torch.float32).to(torch.bfloat16)
        self.kv = memory.transpose(2, 3) if heads_first else memory
        steps = [2 * stride for stride in self.kv.stride()]  # two bytes each
        num_rows = 2 * NUM_LAYERS
        starts = [layer.data_ptr() + kv * 2 * WIDTH for layer in self.kv for kv in range(2)]
        place = EngineMemory(
            addresses=np.array(starts, np.uint64),
            strides_bytes=np.full(num_rows, steps[1]),
            num_slots=NUM_BLOCKS * BLOCK,
            owner=self.kv,
            device=self.kv.get_device(),
            block_slots=BLOCK,
            slot_strides_bytes=np.full(num_rows, steps[2]),
            num_pieces=NUM_HEADS,
            piece_strides_bytes=np.full(num_rows, steps[3]),
        )
        layout = KVLayout(NUM_LAYERS, 2, NUM_HEADS * WIDTH * 2, "bfloat16")
        config = CacheConfig(memory_size_bytes=64 << 20, gpu_copy=path)
        self.cache = KVCache(layout, config, engine=place)

    def rows(self, slots: Any) -> Any:
        """Copies. Shape: (layer, slot, head, K beside V)."""
        where = torch.from_numpy(slots).to(self.kv.device)
        return self.kv[:, where // BLOCK, where % BLOCK].clone()


@pytest.fixture(params=["kernel", "staged"])
def path(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[False, True], ids=["tokens first", "heads first"])
def engine(request: pytest.FixtureRequest, path: str) -> Any:
    engine = Engine(request.param, path)
    with engine.cache:
        yield engine


def slots_in_random_blocks(seed: int) -> Any:
    blocks = np.random.default_rng(seed).permutation(NUM_BLOCKS)
    return (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[:NUM_TOKENS]


def test_what_is_stored_comes_back_to_other_slots_and_nowhere_else(engine):
    tokens = np.arange(NUM_TOKENS, dtype=np.uint32)
    here, there = slots_in_random_blocks(1), slots_in_random_blocks(2)
    wanted = engine.rows(here)
    ticket = engine.cache.store(tokens, here)
    assert ticket is not None
    assert ticket.wait()
    engine.kv.zero_()

    with engine.cache.acquire(tokens) as handle:
        ticket = engine.cache.load(handle, there[5:], 5)  # begins inside a block
    engine.cache.begin_loads()

    assert ticket.wait()
    others = np.setdiff1d(np.arange(NUM_BLOCKS * BLOCK), there[5:])
    assert torch.equal(engine.rows(there[5:]), wanted[:, 5:])
    assert not engine.rows(others).any()


def test_a_store_waits_for_the_stream_that_is_followed(engine):
    """Were it another stream, it would read what was there before."""
    tokens = np.arange(NUM_TOKENS, dtype=np.uint32)
    slots = slots_in_random_blocks(1)
    forward = torch.cuda.Stream()
    engine.cache.executor.follow_stream(forward.cuda_stream)
    torch.cuda.synchronize()
    with torch.cuda.stream(forward):
        torch.cuda._sleep(SLEEP_CYCLES)
        engine.kv.fill_(7)

    ticket = engine.cache.store(tokens, slots)
    assert ticket is not None
    assert ticket.wait()
    torch.cuda.synchronize()
    engine.kv.zero_()
    torch.cuda.synchronize()

    with engine.cache.acquire(tokens) as handle:
        ticket = engine.cache.load(handle, slots)
    engine.cache.begin_loads()
    assert ticket.wait()
    assert (engine.rows(slots) == 7).all()
