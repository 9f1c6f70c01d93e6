"""What radixkv._cuda does without a GPU: refuse wrong arguments, and copy as its own twin."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_case import (
    LAYOUTS,
    NUM_SLOTS,
    Slices,
    copy_in_numpy,
    draw_slices,
    every_layout,
    random_bytes,
)

_cuda = pytest.importorskip("radixkv._cuda", reason="built without nvcc")


@every_layout
@pytest.mark.parametrize("load", [True, False], ids=["load", "store"])
def test_the_twin_copies_what_the_definition_says(layout, load):
    slices = draw_slices(layout, seed=1)
    engine, chunks = random_bytes(layout.num_bytes, 2), random_bytes(slices.num_bytes, 3)
    wanted_engine, wanted_chunks = engine.copy(), chunks.copy()
    positional, named = layout.arguments(engine.ctypes.data)

    _cuda.copy_on_cpu(
        _cuda.Direction.LOAD if load else _cuda.Direction.STORE,
        _cuda.EngineLayout(*positional, **named),
        *slices.arguments(chunks.ctypes.data),
    )

    copy_in_numpy(layout, slices, wanted_chunks, wanted_engine, load)
    assert np.array_equal(engine, wanted_engine)
    assert np.array_equal(chunks, wanted_chunks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv": 3}, "num_kv: expected 1 or 2, got 3"),
        ({"num_slots": 0}, "num_slots: expected at least 1"),
        ({"row_bytes": 0}, "row_bytes: expected 1 to"),
        ({"block_slots": 16}, "slot_strides: expected 6 entries, got 0"),
        ({"num_pieces": 3}, "num_pieces: must divide row_bytes"),
        ({"num_pieces": 2}, "piece_strides: expected 6 entries, got 0"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(changes, message):
    positional, named = LAYOUTS["separate"].arguments(4096)

    with pytest.raises(ValueError, match=message):
        _cuda.EngineLayout(*positional, **(named | changes))


def slices_of(**changes: object) -> Slices:
    good = {"offsets": [0], "chunk_num_tokens": [4], "first": [1], "count": [2]}
    return Slices(**(good | {"slots": np.array([5, 6])} | changes))


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (slices_of(count=[4]), "slice 0: 4 tokens from 1 of a chunk of 4"),
        (slices_of(count=[0]), "slice 0: 0 tokens from 1 of a chunk of 4"),
        (slices_of(first=[-1]), "slice 0: 2 tokens from -1 of a chunk of 4"),
        (slices_of(first=[1, 1]), "first: expected 1 entries, got 2"),
        (slices_of(slots=np.array([5])), "slots: expected 2 entries, got 1"),
        (slices_of(slots=np.array([5, -6])), f"slots: expected 0 to {NUM_SLOTS - 1}, got -6"),
        (slices_of(slots=np.array([5, NUM_SLOTS])), f"0 to {NUM_SLOTS - 1}, got {NUM_SLOTS}"),
        (Slices(), "chunks: expected at least 1"),
    ],
)
def test_slices_that_contradict_themselves_are_refused(slices, message):
    positional, named = LAYOUTS["separate"].arguments(4096)
    layout = _cuda.EngineLayout(*positional, **named)

    with pytest.raises(ValueError, match=message):
        _cuda.copy_on_cpu(_cuda.Direction.LOAD, layout, *slices.arguments(4096))


def test_arrays_of_another_type_are_refused():
    positional, named = LAYOUTS["separate"].arguments(4096)
    layout = _cuda.EngineLayout(*positional, **named)
    chunks, *counts, slots = slices_of().arguments(4096)

    with pytest.raises(TypeError):
        _cuda.copy_on_cpu(_cuda.Direction.LOAD, layout, chunks, *counts, slots.astype(np.int32))


def test_it_says_why_there_is_no_gpu():
    reason = _cuda.why_unavailable()

    if reason:
        positional, named = LAYOUTS["separate"].arguments(4096)
        with pytest.raises(RuntimeError, match=reason):
            _cuda.CudaTransfer(_cuda.EngineLayout(*positional, **named))
