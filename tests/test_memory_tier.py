"""The memory tier: its allocation, and that a command only ever means the bytes that are there."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from dataplane import FakeEngine, chunk, load, slots_from, store

from radixkv.cli.check_memory import HUGEPAGES
from radixkv.commands import CompletionStatus
from radixkv.errors import TierError
from radixkv.executor import Executor
from radixkv.layout import KVLayout

LAYOUT = KVLayout(2, 2, 64, "uint8")


def gives_huge_pages():
    try:
        return "[never]" not in HUGEPAGES.read_text()
    except OSError:
        return False


@pytest.fixture
def executor():
    with Executor(LAYOUT, memory_bytes=1 << 20, pin=False) as executor:
        engine = FakeEngine(LAYOUT, 256)
        executor.attach(engine.memory())
        yield executor


def test_memory_is_rounded_down_to_units():
    with Executor(LAYOUT, memory_bytes=10 * 4096 + 4095, pin=False) as executor:
        assert executor.unit_bytes == 4096
        assert executor.memory_units == 10


def test_memory_begins_as_zeros(executor):
    assert not any(executor.read_memory(0, 1 << 20))


@pytest.mark.skipif(not gives_huge_pages(), reason="the kernel gives no huge pages")
def test_memory_lies_in_huge_pages_unless_none_are_wanted(caplog):
    caplog.set_level(logging.INFO, "radixkv")

    Executor(LAYOUT, memory_bytes=64 << 20, pin=False).close()
    Executor(LAYOUT, memory_bytes=64 << 20, pin=False, hugepages=False).close()

    said = [record.message for record in caplog.records if "huge pages" in record.message]
    assert [", 0B in huge pages" in message for message in said] == [False, True]


def test_memory_that_cannot_be_had_is_a_tier_error():
    with pytest.raises(TierError, match=r"memory: open: .*memory\.size") as caught:
        Executor(LAYOUT, memory_bytes=1 << 46, pin=False)

    assert caught.value.tier == "memory"
    assert caught.value.op == "open"


NO_ROOM_FOR_STACKS = """
import resource
from radixkv import Executor, KVLayout, TierError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
try:
    Executor(KVLayout(2, 2, 64, "uint8"), memory_bytes=1 << 20, pin=False)
except TierError as error:
    print(error)
"""


@pytest.mark.long  # a process of its own, whose address space a sanitizer would fill
def test_a_thread_that_cannot_begin_is_a_tier_error():
    stacks = (256 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM_FOR_STACKS],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, stacks),
    )

    assert done.stdout.startswith("executor: open: starting a thread failed")


def test_memory_below_a_unit_is_refused():
    with pytest.raises(ValueError, match="memory_bytes"):
        Executor(LAYOUT, memory_bytes=4095)


def test_without_a_driver_memory_works_unpinned():
    with Executor(LAYOUT, memory_bytes=1 << 20, pin=True, hugepages=False) as executor:
        executor.attach(FakeEngine(LAYOUT, 64).memory())

        completion = store(executor, chunk(executor, 0), slots_from(0, 64))

        assert completion.status == CompletionStatus.OK
        assert isinstance(executor.pinned, bool)


def test_a_numa_node_that_does_not_exist_is_no_reason_to_stop():
    with Executor(LAYOUT, memory_bytes=1 << 20, pin=False, numa=999) as executor:
        assert executor.memory_units > 0


def test_read_memory_stays_inside(executor):
    with pytest.raises(ValueError, match="offset_units"):
        executor.read_memory(executor.memory_units, 1)


def test_load_of_what_was_never_stored_is_corrupt(executor):
    completion = load(executor, chunk(executor, 0), slots_from(0, 64))

    assert completion.num_ok == 0
    assert completion.status == CompletionStatus.CORRUPT


def test_load_of_another_generation_is_corrupt(executor):
    store(executor, chunk(executor, 0, generation=1), slots_from(0, 64))

    completion = load(executor, chunk(executor, 0, generation=2), slots_from(0, 64))

    assert completion.status == CompletionStatus.CORRUPT


def test_load_of_a_chunk_that_was_overwritten_in_part_is_corrupt(executor):
    stored = chunk(executor, 0)
    store(executor, stored, slots_from(0, 64))
    intruder = chunk(executor, 1, num_tokens=16)
    intruder["memory_offset"] = stored["memory_offset"] + stored["num_units"] - 1
    store(executor, intruder, slots_from(0, 16))

    completion = load(executor, stored, slots_from(0, 64))

    assert completion.status == CompletionStatus.CORRUPT


def test_load_stops_at_the_first_bad_chunk(executor):
    chunks = np.concatenate([chunk(executor, index) for index in range(4)])
    store(executor, chunks[[0, 1, 3]], slots_from(0, 192))

    completion = load(executor, chunks, slots_from(0, 256))

    assert completion.num_ok == 2
    assert completion.status == CompletionStatus.CORRUPT
