"""Rows between stored chunks and engine memory, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from dataplane import FakeEngine, chunk, load, slots_from, store

from radixkv.commands import CompletionStatus
from radixkv.executor import Executor
from radixkv.layout import EngineMemory, KVLayout

NUM_SLOTS = 300
LAYOUTS = {
    "gqa": KVLayout(3, 2, 128, "bfloat16"),
    "mla": KVLayout(5, 1, 1152, "bfloat16"),
    "one byte": KVLayout(2, 2, 1, "uint8"),
    "odd row": KVLayout(2, 2, 37, "uint8"),
    "many layers": KVLayout(64, 2, 24, "float32"),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request):
    return request.param


@pytest.fixture
def executor(layout):
    with Executor(layout, memory_bytes=64 * layout.unit_bytes(64), pin=False) as executor:
        yield executor


def scattered(num_tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).permutation(NUM_SLOTS)[:num_tokens].astype(np.int64)


SLOTS = {
    "one run": slots_from(7, 64),
    "scattered": scattered(64),
    "backwards": slots_from(100, 64)[::-1].copy(),
    "runs": np.concatenate([slots_from(200, 30), slots_from(3, 33), slots_from(299, 1)]),
}


@pytest.mark.parametrize("gap_bytes", [0, 16, 5])
@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS.keys())
def test_store_writes_the_stored_form(executor, layout, slots, gap_bytes):
    engine = FakeEngine(layout, NUM_SLOTS, gap_bytes)
    executor.attach(engine.memory())

    store(executor, chunk(executor, 0), slots)

    assert executor.read_memory(0, 64 * layout.token_bytes) == engine.token_bytes(slots)


@pytest.mark.parametrize("gap_bytes", [0, 16, 5])
@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS.keys())
def test_load_writes_those_rows_and_nothing_else(executor, layout, slots, gap_bytes):
    engine = FakeEngine(layout, NUM_SLOTS, gap_bytes)
    executor.attach(engine.memory())
    stored = chunk(executor, 0)
    source = scattered(64, seed=2)
    store(executor, stored, source)
    wanted = engine.token_bytes(source)
    engine.poison()

    load(executor, stored, slots)

    assert engine.token_bytes(slots) == wanted
    others = np.setdiff1d(np.arange(NUM_SLOTS), slots)
    assert set(engine.token_bytes(others)) == {0xEE}
    assert engine.guards_are_intact()


@pytest.mark.parametrize("num_tokens", [1, 2, 63])
def test_a_tail_is_as_long_as_it_is_and_padded_with_zeros(executor, layout, num_tokens):
    engine = FakeEngine(layout, NUM_SLOTS)
    executor.attach(engine.memory())
    store(executor, chunk(executor, 0), slots_from(0, 64))  # leaves bytes behind

    tail = chunk(executor, 0, num_tokens=num_tokens, generation=2)
    slots = scattered(num_tokens)
    store(executor, tail, slots)

    stored_bytes = num_tokens * layout.token_bytes
    extent = executor.read_memory(0, int(tail["num_units"][0]) * executor.unit_bytes)
    assert extent[:stored_bytes] == engine.token_bytes(slots)
    assert not any(extent[stored_bytes:])


def test_load_takes_slices_of_chunks(executor, layout):
    engine = FakeEngine(layout, NUM_SLOTS)
    executor.attach(engine.memory())
    full, tail = chunk(executor, 0), chunk(executor, 1, num_tokens=40, span=1)
    source = scattered(104)
    store(executor, np.concatenate([full, tail]), source)
    wanted = engine.token_bytes(np.concatenate([source[5:25], source[64:70]]))
    engine.poison()

    slices = np.concatenate(
        [
            chunk(executor, 0, first=5, count=20),
            chunk(executor, 1, num_tokens=40, span=1, first=0, count=6),
        ]
    )
    target = scattered(26, seed=3)
    load(executor, slices, target)

    assert engine.token_bytes(target) == wanted
    assert engine.guards_are_intact()


def test_layers_may_lie_anywhere_with_strides_of_their_own():
    layout = KVLayout(2, 2, 10, "uint8")
    random = np.random.default_rng(0)
    buffers = [random.integers(0, 256, (80, stride), np.uint8) for stride in (10, 13, 64, 10)]
    memory = EngineMemory(
        addresses=np.array([buffer.ctypes.data for buffer in buffers], np.uint64),
        strides_bytes=np.array([buffer.shape[1] for buffer in buffers], np.int64),
        num_slots=80,
        owner=buffers,
    )
    with Executor(layout, memory_bytes=1 << 20, pin=False) as executor:
        executor.attach(memory)
        slots = slots_from(9, 64)

        completion = store(executor, chunk(executor, 0), slots)

        assert completion.status == CompletionStatus.OK
        wanted = b"".join(buffer[slots, :10].tobytes() for buffer in buffers)
        assert executor.read_memory(0, len(wanted)) == wanted


@pytest.mark.parametrize("heads_first", [False, True], ids=["tokens first", "heads first"])
def test_rows_may_lie_in_blocks_and_in_pieces(heads_first):
    """A head's K beside its V, tokens in blocks of 16: every row is stored whole all the same."""
    layout = KVLayout(num_layers=3, num_kv=2, row_bytes=4 * 8, dtype="uint8")
    random = np.random.default_rng(0)
    inner = (4, 16) if heads_first else (16, 4)
    engine = random.integers(0, 256, (3, 10, *inner, 2, 8), np.uint8)
    by_token = engine.swapaxes(2, 3) if heads_first else engine  # layer, block, token, head, K|V
    starts = [by_token[layer, 0, 0, 0, kv].ctypes.data for layer in range(3) for kv in range(2)]
    memory = EngineMemory(
        addresses=np.array(starts, np.uint64),
        strides_bytes=np.full(6, by_token.strides[1]),
        num_slots=160,
        owner=engine,
        block_slots=16,
        slot_strides_bytes=np.full(6, by_token.strides[2]),
        num_pieces=4,
        piece_strides_bytes=np.full(6, by_token.strides[3]),
    )
    slots = np.concatenate([slots_from(13, 40), np.array([9, 2, 3, 140, 60])])
    with Executor(layout, memory_bytes=1 << 20, pin=False) as executor:
        executor.attach(memory)
        stored = chunk(executor, 0, num_tokens=len(slots))
        wanted = by_token[:, slots // 16, slots % 16]  # layer, token, head, K|V

        store(executor, stored, slots)
        in_memory = executor.read_memory(0, wanted.size)
        before = engine.copy()
        engine[:] = 0xEE
        load(executor, stored, slots)

    assert in_memory == wanted.transpose(0, 3, 1, 2, 4).tobytes()  # layer, K|V, token, head
    after = engine.swapaxes(2, 3) if heads_first else engine
    is_loaded = np.zeros((10, 16), bool)
    is_loaded[slots // 16, slots % 16] = True
    kept = before.swapaxes(2, 3) if heads_first else before
    assert np.array_equal(after[:, is_loaded], kept[:, is_loaded])
    assert (after[:, ~is_loaded] == 0xEE).all()
