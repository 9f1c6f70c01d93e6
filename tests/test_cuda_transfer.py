"""Transfers on a GPU against their twin on the CPU, and what they wait for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_case import (
    GUARD_BYTES,
    LAYOUTS,
    NUM_LAYERS,
    NUM_SLOTS,
    Layout,
    Slices,
    draw_slices,
    even_slices,
    every_layout,
    random_bytes,
    separate,
)

_cuda = pytest.importorskip("radixkv._cuda", reason="built without nvcc")
if _cuda.why_unavailable():
    pytest.skip(f"needs a GPU: {_cuda.why_unavailable()}", allow_module_level=True)
torch = pytest.importorskip("torch", reason="needs torch for the engine's memory")

pytestmark = pytest.mark.gpu
every_path = pytest.mark.parametrize("path", list(_cuda.Path.__members__.values()), ids=str)
both_ways = pytest.mark.parametrize(
    "direction", [_cuda.Direction.LOAD, _cuda.Direction.STORE], ids=str
)
SLEEP_CYCLES = 100_000_000  # some 50 ms of a stream


class Pair:
    """The same engine and chunks twice: GPU and pinned memory, and plain memory for the twin."""

    def __init__(self, layout: Layout, slices: Slices, **options: Any) -> None:
        self.slices = slices
        self.engine = random_bytes(layout.num_bytes, 1)
        self.chunks = random_bytes(slices.num_bytes, 2)
        self.device_engine = torch.from_numpy(self.engine).cuda()
        self.pinned_chunks = torch.from_numpy(self.chunks).pin_memory()
        self.stream = torch.cuda.Stream()
        self.transfer = _cuda.CudaTransfer(
            self.layout_at(layout, self.device_engine.data_ptr()), **options
        )
        self.layout = self.layout_at(layout, self.engine.ctypes.data)
        torch.cuda.synchronize()

    @staticmethod
    def layout_at(layout: Layout, base: int) -> Any:
        positional, named = layout.arguments(base)
        return _cuda.EngineLayout(*positional, **named)

    def submit(self, direction: Any, slices: Slices | None = None) -> Any:
        call = self.transfer.load if direction == _cuda.Direction.LOAD else self.transfer.store
        arrays = (slices or self.slices).arguments(self.pinned_chunks.data_ptr())
        return call(*arrays, self.stream.cuda_stream)

    def copy_twin(self, direction: Any, slices: Slices | None = None) -> None:
        arrays = (slices or self.slices).arguments(self.chunks.ctypes.data)
        _cuda.copy_on_cpu(direction, self.layout, *arrays)

    def assert_equal(self) -> None:
        torch.cuda.synchronize()
        assert np.array_equal(self.device_engine.cpu().numpy(), self.engine)
        assert np.array_equal(self.pinned_chunks.numpy(), self.chunks)


@every_layout
@every_path
@both_ways
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_transfer_does_what_its_twin_does(layout, path, direction, seed):
    pair = Pair(layout, draw_slices(layout, seed), path=path)

    ticket = pair.submit(direction)
    pair.transfer.wait(ticket)
    pair.copy_twin(direction)

    pair.assert_equal()


@every_layout
@both_ways
@pytest.mark.parametrize(("first", "count"), [(0, 8), (2, 5)], ids=["whole", "within"])
@pytest.mark.parametrize("slices_in_a_slab", [64, 8, 1])
def test_chunks_that_lie_evenly_are_copied_together(
    layout, direction, first, count, slices_in_a_slab
):
    slices = even_slices(layout, 4, first, count)
    slice_bytes = count * layout.num_kv * layout.row_bytes  # of a layer
    pair = Pair(layout, slices, path=_cuda.Path.STAGED, slab_bytes=slices_in_a_slab * slice_bytes)

    ticket = pair.submit(direction)
    pair.transfer.wait(ticket)
    pair.copy_twin(direction)

    pair.assert_equal()
    assert pair.transfer.path(ticket) == _cuda.Path.STAGED


@every_path
@both_ways
def test_many_transfers_share_tables_and_slabs(path, direction):
    layout = LAYOUTS["separate"]
    slices = draw_slices(layout, seed=5, num_slices=12)
    num_tokens = int(sum(slices.count))
    largest = max(slices.count) * 2 * layout.row_bytes
    pair = Pair(
        layout, slices, path=path, slab_bytes=largest, num_slabs=2,
        max_in_flight=3, max_tokens=2 * num_tokens + 1,
    )  # fmt: skip

    for _ in range(20):
        while pair.submit(direction) is None:
            pass
    pair.copy_twin(direction)

    pair.assert_equal()


@pytest.mark.parametrize("num_blocks", [1, 2, 7])
def test_any_number_of_blocks_copies_all(num_blocks):
    layout = LAYOUTS["row_of_656"]
    pair = Pair(layout, draw_slices(layout, 7), path=_cuda.Path.KERNEL, max_blocks=num_blocks)

    pair.transfer.wait(pair.submit(_cuda.Direction.LOAD))
    pair.copy_twin(_cuda.Direction.LOAD)

    pair.assert_equal()


@both_ways
def test_without_a_path_it_measures_and_chooses(direction):
    layout = LAYOUTS["nhd"]
    pair = Pair(layout, draw_slices(layout, 8))

    ticket = pair.submit(direction)
    pair.transfer.wait(ticket)
    pair.copy_twin(direction)

    pair.assert_equal()
    assert pair.transfer.path(ticket) is not None
    assert {times.direction for times in pair.transfer.path_times} == set(
        _cuda.Direction.__members__.values()
    )
    assert all(0 < us < 1e6 for times in pair.transfer.path_times for us in times.us)


def whole_engine() -> tuple[Layout, Slices]:
    """One chunk for all slots, so that every byte of every row moves."""
    layout = separate(2048)
    num_bytes = NUM_SLOTS * len(layout.offsets) * layout.row_bytes + 2 * GUARD_BYTES
    slots = np.random.default_rng(9).permutation(NUM_SLOTS)
    return layout, Slices([GUARD_BYTES], [NUM_SLOTS], [0], [NUM_SLOTS], slots, num_bytes)


@every_path
def test_a_load_begins_after_the_forward_that_still_writes_its_slots(path):
    pair = Pair(*whole_engine(), path=path)

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        pair.device_engine.fill_(0)  # the forward in flight, with slots that were freed meanwhile
    pair.transfer.wait(pair.submit(_cuda.Direction.LOAD))
    pair.engine[:] = 0
    pair.copy_twin(_cuda.Direction.LOAD)

    pair.assert_equal()


@every_path
def test_a_store_begins_after_the_forward_that_makes_its_kv(path):
    pair = Pair(*whole_engine(), path=path)
    made = torch.from_numpy(random_bytes(len(pair.engine), 10)).cuda()

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        pair.device_engine.copy_(made)
    pair.transfer.wait(pair.submit(_cuda.Direction.STORE))
    pair.engine[:] = made.cpu().numpy()
    pair.copy_twin(_cuda.Direction.STORE)

    pair.assert_equal()


@every_path
def test_without_its_fence_a_load_is_overwritten(path):
    """Why the two tests above fail where a fence is missing: here it is on an idle stream."""
    pair = Pair(*whole_engine(), path=path)
    forward, pair.stream = pair.stream, torch.cuda.Stream()

    with torch.cuda.stream(forward):
        torch.cuda._sleep(SLEEP_CYCLES)
        pair.device_engine.fill_(0)
    pair.transfer.wait(pair.submit(_cuda.Direction.LOAD))
    torch.cuda.synchronize()

    assert not pair.device_engine.any()


@every_path
def test_a_layer_can_be_read_once_it_is_held_for(path):
    layout, slices = whole_engine()
    pair = Pair(layout, slices, path=path)
    seen = torch.zeros_like(pair.device_engine)

    torch.cuda.synchronize()
    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
    ticket = pair.submit(_cuda.Direction.LOAD)
    for layer in range(NUM_LAYERS):
        pair.transfer.hold_for_layer(ticket, layer, pair.stream.cuda_stream)
        begin = layout.offsets[2 * layer]
        end = layout.offsets[2 * layer + 1] + NUM_SLOTS * layout.row_bytes
        with torch.cuda.stream(pair.stream):
            seen[begin:end] = pair.device_engine[begin:end]
    pair.copy_twin(_cuda.Direction.LOAD)
    torch.cuda.synchronize()

    for offset in layout.offsets:
        row = slice(offset, offset + NUM_SLOTS * layout.row_bytes)
        assert np.array_equal(seen[row].cpu().numpy(), pair.engine[row])


@every_path
def test_a_stream_is_held_while_the_caller_goes_on(path):
    pair = Pair(*whole_engine(), path=path)

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
    ticket = pair.submit(_cuda.Direction.LOAD)
    held = [
        pair.transfer.hold_for_layer(ticket, layer, pair.stream.cuda_stream)
        for layer in range(NUM_LAYERS)
    ]
    was_done = pair.transfer.is_done(ticket)
    with torch.cuda.stream(pair.stream):
        seen = pair.device_engine.clone()
    pair.copy_twin(_cuda.Direction.LOAD)
    pair.assert_equal()

    assert held == [True] * NUM_LAYERS
    assert not was_done
    assert torch.equal(seen, pair.device_engine)


@every_path
def test_slots_can_be_overwritten_on_a_stream_that_is_held_for_their_store(path):
    pair = Pair(*whole_engine(), path=path)
    other = torch.cuda.Stream()

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)  # the store begins after it
    ticket = pair.submit(_cuda.Direction.STORE)
    was_held = pair.transfer.hold_for_end(ticket, other.cuda_stream)
    was_done = pair.transfer.is_done(ticket)
    with torch.cuda.stream(other):
        pair.device_engine.zero_()
    pair.transfer.wait(ticket)
    pair.copy_twin(_cuda.Direction.STORE)
    torch.cuda.synchronize()

    assert was_held
    assert not was_done
    assert np.array_equal(pair.pinned_chunks.numpy(), pair.chunks)
    assert not pair.device_engine.any()


@every_path
@both_ways
def test_slots_may_lie_on_the_device(path, direction):
    layout = LAYOUTS["separate"]
    slices = draw_slices(layout, 14)
    pair = Pair(layout, slices, path=path)
    wrong = torch.zeros(len(slices.slots), dtype=torch.int64).cuda()
    right = torch.from_numpy(slices.slots).cuda()
    *arrays, _ = slices.arguments(pair.pinned_chunks.data_ptr())
    maker = torch.cuda.Stream()
    torch.cuda.synchronize()

    with torch.cuda.stream(maker):
        torch.cuda._sleep(SLEEP_CYCLES)
        wrong.copy_(right)  # from here on they are what they should be
    half = len(wrong) // 2
    begin = wrong.data_ptr()
    parts = [(begin, half), (begin + 8 * half, len(wrong) - half)]
    slots = _cuda.DeviceSlots(parts, maker.cuda_stream)
    call = pair.transfer.load if direction == _cuda.Direction.LOAD else pair.transfer.store
    pair.transfer.wait(call(*arrays, slots, pair.stream.cuda_stream))
    pair.copy_twin(direction)

    pair.assert_equal()


def test_a_slot_on_the_device_that_the_engine_has_not_fails_its_transfer_alone():
    layout = LAYOUTS["separate"]
    slices = draw_slices(layout, 15)
    pair = Pair(layout, slices, path=_cuda.Path.KERNEL)
    outside = torch.full((len(slices.slots),), NUM_SLOTS, dtype=torch.int64).cuda()
    *arrays, _ = slices.arguments(pair.pinned_chunks.data_ptr())
    slots = _cuda.DeviceSlots(
        [(outside.data_ptr(), len(outside))], torch.cuda.current_stream().cuda_stream
    )

    failed = pair.transfer.load(*arrays, slots, pair.stream.cuda_stream)
    was_held = pair.transfer.hold_for_layer(failed, 0, pair.stream.cuda_stream)
    pair.stream.synchronize()  # nobody waits for what will not come
    with pytest.raises(ValueError, match="slots: expected 0 to"):
        pair.transfer.wait(failed)
    assert not was_held

    pair.transfer.wait(pair.submit(_cuda.Direction.LOAD))
    pair.copy_twin(_cuda.Direction.LOAD)
    pair.assert_equal()


@both_ways
def test_the_engines_own_copies_get_in_between_those_of_a_long_transfer(direction):
    """A token is on the host, and a step's input on the GPU, before half a gigabyte is through."""
    num_tokens, row_bytes, chunk_tokens = 40_960, 2048, 64
    memory = torch.empty((2 * NUM_LAYERS, num_tokens, row_bytes), dtype=torch.uint8, device="cuda")
    addresses = np.array([row.data_ptr() for row in memory], np.uint64)
    strides = np.full(len(memory), row_bytes)
    layout = _cuda.EngineLayout(addresses, strides, num_slots=num_tokens, row_bytes=row_bytes)
    chunks = torch.empty(memory.numel(), dtype=torch.uint8, pin_memory=True)
    chunk_bytes = chunk_tokens * len(memory) * row_bytes
    at = np.arange(chunks.data_ptr(), chunks.data_ptr() + len(chunks), chunk_bytes, np.uint64)
    full = np.full(len(at), chunk_tokens, np.int32)
    transfer = _cuda.CudaTransfer(layout, path=_cuda.Path.STAGED)
    engines, forward = torch.cuda.Stream(), torch.cuda.Stream()
    on_device = torch.zeros(8, dtype=torch.int64, device="cuda")
    on_host = torch.zeros(8, dtype=torch.int64, pin_memory=True)
    torch.cuda.synchronize()

    is_load = direction == _cuda.Direction.LOAD
    move = transfer.load if is_load else transfer.store
    ticket = move(at, full, 0 * full, full, np.arange(num_tokens), forward.cuda_stream)
    transfer.path(ticket)  # all of it is queued
    with torch.cuda.stream(engines):
        if is_load:
            on_device.copy_(on_host, non_blocking=True)
        else:
            on_host.copy_(on_device, non_blocking=True)
    engines.synchronize()

    assert not transfer.is_done(ticket)
    transfer.wait(ticket)


@every_path
@both_ways
def test_nothing_waits_and_too_much_in_flight_is_turned_away(path, direction):
    layout = LAYOUTS["separate"]
    pair = Pair(layout, draw_slices(layout, 11), path=path, max_in_flight=2)

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
    tickets = [pair.submit(direction), pair.submit(direction)]
    turned_away = pair.submit(direction)
    was_done = [pair.transfer.is_done(ticket) for ticket in tickets]
    for ticket in tickets:
        pair.transfer.wait(ticket)

    assert turned_away is None
    assert was_done == [False, False]
    assert all(pair.transfer.is_done(ticket) for ticket in tickets)
    assert pair.submit(direction) is not None


def test_a_ticket_stays_done_after_its_place_is_used_again():
    layout = LAYOUTS["separate"]
    pair = Pair(layout, draw_slices(layout, 12), path=_cuda.Path.KERNEL, max_in_flight=1)
    first = pair.submit(_cuda.Direction.LOAD)
    pair.transfer.wait(first)

    with torch.cuda.stream(pair.stream):
        torch.cuda._sleep(SLEEP_CYCLES)
    second = pair.submit(_cuda.Direction.LOAD)
    pair.transfer.hold_for_layer(first, 0, torch.cuda.current_stream().cuda_stream)

    assert pair.transfer.is_done(first)
    assert not pair.transfer.is_done(second)


def test_more_tokens_than_fit_are_refused():
    layout = LAYOUTS["separate"]
    slices = draw_slices(layout, 13)
    pair = Pair(layout, slices, path=_cuda.Path.KERNEL, max_tokens=len(slices.slots) - 1)

    with pytest.raises(ValueError, match="slots: expected at most"):
        pair.submit(_cuda.Direction.LOAD)
