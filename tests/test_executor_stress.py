"""Many commands of all kinds at once: every load brings the bytes that its chunk was made of."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from dataplane import (
    NAMESPACE,
    TIMEOUT_S,
    FakeEngine,
    chunk,
    load,
    slots_from,
    store,
    tokens_of,
)

from radixkv.commands import Clear, Command, CompletionStatus, Fetch, Load, Spill, Store
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(3, 2, 70, "uint8")
NUM_PLACES = 12
NUM_LIVES = 8  # of each place
SOURCE_SLOTS = 512
TARGET_SLOTS = NUM_PLACES * 64


class Place:
    """One extent of each tier; chunk after chunk is stored, spilled, fetched and loaded there."""

    def __init__(self, executor: Executor, engine: FakeEngine, index: int) -> None:
        self.executor = executor
        self.engine = engine
        self.index = index
        self.random = np.random.default_rng(index)
        self.num_checked = 0
        self.first_id = 1 + index * 10_000

    def commands(self) -> Iterator[Command]:
        """The next command, each after the one before has ended."""
        command_id = self.first_id
        for generation in range(1, NUM_LIVES + 1):
            num_tokens = int(self.random.integers(1, 65))
            record = chunk(self.executor, self.index, num_tokens=num_tokens, generation=generation)
            source = self.random.permutation(SOURCE_SLOTS)[:num_tokens].astype(np.int64)
            target = slots_from(SOURCE_SLOTS + 64 * self.index, num_tokens)
            sequence = command_id
            yield from (
                Store(command_id, record, source),
                Spill(command_id + 1, record, tokens_of(record), NAMESPACE, sequence),
                Fetch(command_id + 2, record),
                Load(command_id + 3, record, target),
            )
            assert self.engine.token_bytes(target) == self.engine.token_bytes(source)
            self.num_checked += 1
            if generation % 2:
                yield Clear(command_id + 4, record)
            command_id += 5


@pytest.mark.parametrize("io_engine", ["auto", "threads"])
def test_many_commands_at_once_stay_right(tmp_path, io_engine):
    disk = DiskOptions(
        tmp_path, 4 << 20, io_engine=io_engine, sync_interval_s=0.001, piece_bytes=4096, depth=4
    )
    engine = FakeEngine(LAYOUT, SOURCE_SLOTS + TARGET_SLOTS)
    with Executor(
        LAYOUT, memory_bytes=1 << 20, disk=disk, num_copy_threads=3, pin=False
    ) as executor:
        executor.attach(engine.memory())
        places = [Place(executor, engine, index) for index in range(NUM_PLACES)]
        waiting = {}  # command id: the place's commands
        for place in places:
            submit_next(executor, place.commands(), waiting)
        while waiting:
            executor.wait(TIMEOUT_S)
            for completion in executor.poll():
                assert completion.status == CompletionStatus.OK, completion
                submit_next(executor, waiting.pop(completion.command_id), waiting)

    assert [place.num_checked for place in places] == [NUM_LIVES] * NUM_PLACES
    assert engine.guards_are_intact()


def submit_next(executor, commands, waiting):
    command = next(commands, None)
    if command is not None:
        waiting[command.command_id] = commands
        executor.submit(command)


def test_other_engine_memory_can_be_attached_as_soon_as_the_last_copy_was_heard_of():
    engine = FakeEngine(LAYOUT, 1024)
    with Executor(LAYOUT, memory_bytes=1 << 20, num_copy_threads=1, pin=False) as executor:
        record = chunk(executor, 0)
        for _ in range(2000):
            executor.attach(engine.memory())
            store(executor, record, slots_from(0, 64))
            executor.attach(engine.memory())
            load(executor, record, slots_from(64, 64))


def test_layers_can_be_awaited_from_many_threads():
    engine = FakeEngine(LAYOUT, 40 * 64)
    with Executor(LAYOUT, memory_bytes=1 << 20, num_copy_threads=3, pin=False) as executor:
        executor.attach(engine.memory())
        record = chunk(executor, 0)
        executor.submit(Store(1, record, slots_from(0, 64)))
        executor.wait(TIMEOUT_S)
        answers = []

        def wait_for(command_id):
            answers.extend(
                executor.wait_layer(command_id, layer, TIMEOUT_S)
                for layer in range(LAYOUT.num_layers)
            )

        for command_id in range(2, 40):
            executor.submit(Load(command_id, record, slots_from(64 * command_id, 64)))
        threads = [threading.Thread(target=wait_for, args=(id,)) for id in range(2, 40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == [True] * 38 * LAYOUT.num_layers
