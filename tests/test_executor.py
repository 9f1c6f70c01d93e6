"""The executor: what it refuses, in which order commands end, layerwise loads, faults, the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataplane import (
    NAMESPACE,
    TIMEOUT_S,
    FakeEngine,
    chunk,
    load,
    path_of_chunks,
    run,
    slots_from,
    spill,
    store,
    tokens_of,
)

from radixkv.commands import CHUNK_DTYPE, Clear, CompletionStatus, Fetch, Load, Spill, Store
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(4, 2, 64, "uint8")
NUM_SLOTS = 1024


@pytest.fixture
def engine():
    return FakeEngine(LAYOUT, NUM_SLOTS)


@pytest.fixture
def executor(tmp_path, engine):
    disk = DiskOptions(tmp_path, 4 << 20, sync_interval_s=0)
    with Executor(LAYOUT, memory_bytes=2 << 20, disk=disk, pin=False) as executor:
        executor.attach(engine.memory())
        yield executor


def with_field(chunks, name, value):
    chunks = chunks.copy()
    chunks[name] = value
    return chunks


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("memory_offset", 10_000, "memory_offset of chunk 0"),
        ("memory_offset", 0xFFFFFFFF, "memory_offset of chunk 0"),
        ("num_tokens", 65, "65 tokens"),
        ("num_tokens", 0, "0 tokens"),
        ("num_units", 7, "7 units"),
        ("count", 63, "whole chunks"),
        ("first", 1, "slice of 64 tokens from 1"),
    ],
)
def test_a_chunk_that_makes_no_sense_is_refused(executor, name, value, problem):
    chunks = with_field(chunk(executor, 0), name, value)
    count = int(chunks["count"][0])

    with pytest.raises(ValueError, match=problem):
        executor.submit(Store(1, chunks, slots_from(0, count)))


@pytest.mark.parametrize("slot", [-1, NUM_SLOTS, 2**62])
def test_a_slot_outside_the_engine_is_refused(executor, slot):
    slots = slots_from(0, 64)
    slots[17] = slot

    with pytest.raises(ValueError, match="slots: outside 0 … 1023"):
        executor.submit(Store(1, chunk(executor, 0), slots))


def test_arrays_of_another_type_are_refused(executor):
    chunks, slots = chunk(executor, 0), slots_from(0, 64)

    with pytest.raises(TypeError):
        executor.submit(Store(1, chunks, slots.astype(np.int32)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="CHUNK_DTYPE"):
        executor.submit(Store(1, np.zeros((1, 8), np.uint32), slots))
    with pytest.raises(ValueError, match=r"slots: expected shape \(64,\), got \(63,\)"):
        executor.submit(Store(1, chunks, slots[1:]))
    with pytest.raises(ValueError, match="expected at least one"):
        executor.submit(Store(1, np.zeros(0, CHUNK_DTYPE), slots[:0]))
    with pytest.raises(ValueError, match="tokens: expected shape"):
        executor.submit(Spill(1, chunks, np.zeros(3, np.uint32), NAMESPACE, 1))
    with pytest.raises(ValueError, match="namespace: expected 16 bytes, got 2"):
        executor.submit(Spill(1, chunks, tokens_of(chunks), b"ab", 1))


def test_engine_memory_must_fit_the_layout(executor, engine):
    memory = engine.memory()

    with pytest.raises(ValueError, match="addresses: expected 8 entries, got 7"):
        executor.attach(replace(memory, addresses=memory.addresses[1:].copy()))
    with pytest.raises(ValueError, match="strides_bytes: expected at least 64, got 63"):
        executor.attach(replace(memory, strides_bytes=np.full(8, 63)))
    with pytest.raises(ValueError, match="num_slots"):
        executor.attach(replace(memory, num_slots=0))
    with pytest.raises(ValueError, match="slot_strides_bytes: expected 8 entries, got 0"):
        executor.attach(replace(memory, block_slots=16))
    with pytest.raises(ValueError, match="num_pieces: expected a divisor of 64, got 3"):
        executor.attach(replace(memory, num_pieces=3))


def test_disk_commands_without_a_disk_are_refused():
    with Executor(LAYOUT, memory_bytes=1 << 20, pin=False) as executor:
        assert executor.restored is None
        assert executor.io_engine is None
        with pytest.raises(ValueError, match="no disk tier"):
            executor.submit(Fetch(1, chunk(executor, 0)))
        with pytest.raises(ValueError, match="no engine memory"):
            executor.submit(Load(1, chunk(executor, 0), slots_from(0, 64)))


def test_commands_of_a_kind_end_in_order(executor):
    rounds = [Store(i, chunk(executor, i % 8), slots_from(0, 64)) for i in range(1, 200)]
    for command in rounds:
        executor.submit(command)

    ended: list[int] = []
    while len(ended) < len(rounds):
        executor.wait(TIMEOUT_S)
        ended += [completion.command_id for completion in executor.poll(7)]

    assert ended == [command.command_id for command in rounds]


def test_poll_gives_no_more_than_asked_for(executor):
    for number in range(1, 4):
        executor.submit(Store(number, chunk(executor, number), slots_from(0, 64)))
    seen = []
    while len(seen) < 3:
        executor.wait(TIMEOUT_S)
        found = executor.poll(1)
        assert len(found) <= 1
        seen += found

    assert [completion.command_id for completion in seen] == [1, 2, 3]
    assert executor.poll() == []


def test_wait_layer_sees_each_layer_in_the_engine(executor, engine):
    chunks = path_of_chunks(executor, list(range(8)))
    source, target = slots_from(0, 512), slots_from(512, 512)
    store(executor, chunks, source)

    executor.submit(Load(77, chunks, target))
    for layer in range(LAYOUT.num_layers):
        assert executor.wait_layer(77, layer, TIMEOUT_S)
        for row in (2 * layer, 2 * layer + 1):
            assert (engine.rows(row)[target] == engine.rows(row)[source]).all()

    assert executor.layers_done(77) == LAYOUT.num_layers


def test_wait_layer_is_over_at_once_when_the_load_failed(executor):
    load(executor, chunk(executor, 0), slots_from(0, 64))  # corrupt; gets its own id
    executor.inject_fault(Load, fail=True)
    executor.submit(Load(78, chunk(executor, 0), slots_from(0, 64)))

    assert not executor.wait_layer(78, 0, TIMEOUT_S)


def test_wait_layer_refuses_what_it_does_not_know(executor):
    with pytest.raises(ValueError, match="no load 1234"):
        executor.wait_layer(1234, 0, 0)
    with pytest.raises(ValueError, match="layer: expected 0 … 3, got 4"):
        executor.wait_layer(1234, 4, 0)


def test_an_injected_failure_hits_the_nth_command_only(executor):
    executor.inject_fault(Store, nth=2, fail=True)

    completions = [store(executor, chunk(executor, i), slots_from(0, 64)) for i in range(3)]

    assert [completion.status for completion in completions] == [
        CompletionStatus.OK,
        CompletionStatus.FAILED,
        CompletionStatus.OK,
    ]
    assert completions[1].num_ok == 0
    assert executor.stats().store.num_failed == 1


@pytest.mark.parametrize("kind", [Spill, Fetch, Clear])
def test_disk_commands_can_be_made_to_fail(executor, kind):
    chunks = chunk(executor, 0)
    store(executor, chunks, slots_from(0, 64))
    spill(executor, chunks)
    executor.inject_fault(kind, fail=True)
    arguments = (tokens_of(chunks), NAMESPACE, 2) if kind is Spill else ()

    completion = run(executor, kind(900, chunks, *arguments))[0]

    assert completion.status == CompletionStatus.FAILED
    assert completion.num_ok == 0


def test_a_late_completion_holds_back_those_of_its_kind_behind_it(executor):
    executor.inject_fault(Store, delay_s=0.05)
    for number in (1, 2):
        executor.submit(Store(number, chunk(executor, number), slots_from(0, 64)))

    ended = []
    while len(ended) < 2:
        executor.wait(TIMEOUT_S)
        ended += [completion.command_id for completion in executor.poll()]

    assert ended == [1, 2]


def test_a_late_completion_holds_back_no_other_kind(executor):
    executor.inject_fault(Store, delay_s=10 * TIMEOUT_S)
    executor.submit(Store(1, chunk(executor, 0), slots_from(0, 64)))
    executor.submit(Load(2, chunk(executor, 5), slots_from(0, 64)))

    executor.wait(TIMEOUT_S)

    assert [completion.command_id for completion in executor.poll()] == [2]


def test_wait_returns_when_the_time_is_over(executor):
    executor.wait(0.001)

    assert executor.poll() == []


def test_stats_count_what_was_done(executor):
    chunks = path_of_chunks(executor, [0, 1])
    store(executor, chunks, slots_from(0, 128))
    load(executor, chunks, slots_from(0, 128))
    spill(executor, chunks)

    stats = executor.stats()

    assert stats.store.num_chunks == stats.load.num_chunks == stats.spill.num_chunks == 2
    assert stats.load.num_bytes == 128 * LAYOUT.token_bytes
    assert stats.load.recent_gbps > 0
    assert stats.fetch.num_commands == stats.fetch.num_queued == 0


def test_close_ends_everything_and_more_of_it_changes_nothing(executor):
    executor.submit(Store(1, chunk(executor, 0), slots_from(0, 64)))

    executor.close()
    executor.close()

    assert [completion.command_id for completion in executor.poll()] == [1]
    with pytest.raises(ValueError, match="closed"):
        executor.submit(Store(2, chunk(executor, 0), slots_from(0, 64)))


def test_close_without_patience_still_ends_every_command(executor):
    chunks = path_of_chunks(executor, list(range(8)))
    store(executor, chunks, slots_from(0, 512))
    for number in range(1, 300):
        executor.submit(Store(number, chunk(executor, 10), slots_from(0, 64)))
        executor.submit(Spill(1000 + number, chunks, tokens_of(chunks), NAMESPACE, number))
        executor.submit(Fetch(2000 + number, chunks))

    executor.close(0)

    completions = executor.poll(10_000)
    assert len(completions) == 3 * 299
    assert {completion.status for completion in completions} <= set(CompletionStatus)


def test_close_wakes_who_waits(executor):
    thread = threading.Thread(target=executor.wait, args=(TIMEOUT_S,))
    thread.start()

    executor.close()
    thread.join(TIMEOUT_S)

    assert not thread.is_alive()


def test_a_wait_without_end_does_not_overflow(executor):
    executor.submit(Store(1, chunk(executor, 0), slots_from(0, 64)))
    executor.wait(float("inf"))
    executor.submit(Load(2, chunk(executor, 0), slots_from(0, 64)))

    assert executor.poll()[0].command_id == 1
    assert executor.wait_layer(2, 0, float("inf"))


NEVER_CLOSED = """
import sys
sys.path.insert(0, sys.argv[1])
from dataplane import path_of_chunks, slots_from, store
from radixkv.commands import Fetch, Load
from test_disk_faults import open_tier

executor = open_tier(sys.argv[2])
chunks = path_of_chunks(executor, list(range(8)))
store(executor, chunks, slots_from(0, 512))
executor.submit(Fetch(9, chunks))
executor.submit(Load(10, chunks, slots_from(0, 512)))
"""


def test_a_process_may_end_without_closing(tmp_path):
    command = [sys.executable, "-c", NEVER_CLOSED, Path(__file__).parent, tmp_path]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
