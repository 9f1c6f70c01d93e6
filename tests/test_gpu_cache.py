"""KVCache over an engine's memory on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from radixkv import CacheConfig, DeviceSlots, KVCache, Load, Store, describe_arrays

_cuda = pytest.importorskip("radixkv._cuda", reason="built without nvcc")
if _cuda.why_unavailable():
    pytest.skip(f"needs a GPU: {_cuda.why_unavailable()}", allow_module_level=True)
torch = pytest.importorskip("torch", reason="needs torch for the engine's memory")

pytestmark = pytest.mark.gpu
NUM_LAYERS, NUM_SLOTS, ROW_ITEMS = 4, 2048, 128
SLEEP_CYCLES = 100_000_000  # some 50 ms of a stream


class Engine:
    """Two tensors a layer, as SGLang's pool has them, and a cache over them."""

    def __init__(self) -> None:
        shape = (2 * NUM_LAYERS, NUM_SLOTS, ROW_ITEMS)
        self.kv = torch.randn(shape, device="cuda", dtype=torch.float32).to(torch.bfloat16)
        self.kept = self.kv.clone()
        layout, memory = describe_arrays(list(self.kv))
        torch.cuda.synchronize()
        config = CacheConfig(memory_size_bytes=64 << 20)
        self.cache = KVCache(layout, config, engine=memory)

    def slots(self, first: int, last: int) -> DeviceSlots:
        slots = torch.arange(first, last, device="cuda")
        stream = torch.cuda.current_stream().cuda_stream
        return DeviceSlots(slots.data_ptr(), len(slots), stream, owner=slots)


@pytest.fixture
def engine() -> Any:
    engine = Engine()
    with engine.cache:
        yield engine


def prompt(number: int, num_tokens: int = 500) -> Any:
    return np.arange(num_tokens, dtype=np.uint32) + 10_000 * number


def store(engine: Engine, number: int, first_slot: int) -> None:
    def slots(first: int, last: int) -> DeviceSlots:
        return engine.slots(first_slot + first, first_slot + last)

    ticket = engine.cache.store(prompt(number), slots)
    assert ticket is not None
    assert ticket.wait()


def test_loads_of_one_step_move_together_and_each_is_right(engine):
    for number in range(3):
        store(engine, number, first_slot=500 * number)
    engine.kv.zero_()

    tickets = []
    for number in range(3):
        with engine.cache.acquire(prompt(number)) as handle:
            assert handle.num_memory_tokens == 500
            slots = engine.slots(500 * number, 500 * number + 500)
            tickets.append(engine.cache.load(handle, slots))
    engine.cache.begin_loads()
    stream = torch.cuda.default_stream()
    for layer in range(NUM_LAYERS):
        assert all(ticket.wait_layer(layer, stream=stream.cuda_stream) for ticket in tickets)
    seen = engine.kv.clone()
    torch.cuda.synchronize()

    assert torch.equal(seen[:, :1500], engine.kept[:, :1500])
    assert not seen[:, 1500:].any()
    assert all(ticket.wait() for ticket in tickets)


def test_the_caller_goes_on_while_the_engine_still_computes(engine):
    torch.cuda._sleep(SLEEP_CYCLES)

    ticket = engine.cache.store(prompt(7), engine.slots)  # its slots too are known only after that
    assert ticket is not None
    was_done = ticket.done
    assert ticket.wait()

    assert not was_done
    assert engine.cache.match(prompt(7)).num_memory_tokens == 500


@pytest.mark.parametrize("is_computed", [True, False])
def test_only_what_may_not_be_computed_yet_is_copied_behind_the_model(engine, is_computed):
    model = torch.cuda.Stream()
    engine.cache.executor.follow_stream(model.cuda_stream)
    with torch.cuda.stream(model):
        torch.cuda._sleep(20 * SLEEP_CYCLES)
        model_ends = model.record_event()

    ticket = engine.cache.store(prompt(7), engine.slots, is_computed=is_computed)
    assert ticket is not None
    assert ticket.wait()

    assert model_ends.query() is not is_computed


@pytest.mark.parametrize("kind", [Load, Store])
def test_a_copy_that_fails_says_so_and_is_not_found(engine, kind):
    store(engine, 1, first_slot=0)
    engine.cache.executor.inject_fault(kind, fail=True)

    if kind is Store:
        ticket = engine.cache.store(prompt(2), engine.slots)
        assert ticket is not None
        assert not ticket.wait()
        assert engine.cache.match(prompt(2)).num_tokens == 0
    else:
        with engine.cache.acquire(prompt(1)) as handle:
            ticket = engine.cache.load(handle, engine.slots(0, 500))
        engine.cache.begin_loads()
        assert not ticket.wait_layer(0, stream=torch.cuda.default_stream().cuda_stream)
        assert not ticket.wait()
