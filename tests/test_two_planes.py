"""A planner and the executors of two ranks that share only values, as in vLLM's processes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from redis_server import running_server
from remote_host import TIMEOUT_S
from test_cache import CHUNK, MIB, Engine, prompt

from radixkv import (
    CacheConfig,
    Completion,
    Executor,
    KVLayout,
    Planner,
    RateMeter,
    TickRecord,
    TierFormatError,
    inspect_ranks,
)
from radixkv.remote_url import parse_remote
from radixkv.tiers.disk import disk_file

NUM_RANKS = 2
GROUP_ID = bytes(range(16))


class Deployment:
    """One planner, and an executor with an engine for each rank."""

    def __init__(self, folder: Path, *urls: str) -> None:
        folder.mkdir(exist_ok=True)
        self.config = CacheConfig(
            remotes=tuple(map(parse_remote, urls)),
            chunk_tokens=CHUNK,
            memory_size_bytes=64 * MIB * NUM_RANKS,
            disk_path=folder,
            disk_size_bytes=64 * MIB * NUM_RANKS,
            disk_durable="none",
        ).for_rank(NUM_RANKS)
        self.engines = [Engine(seed=rank) for rank in range(NUM_RANKS)]
        self.executors = [
            Executor.from_config(
                engine.layout, self.config, group_id=GROUP_ID, rank=rank, world_size=NUM_RANKS
            )
            for rank, engine in enumerate(self.engines)
        ]
        for executor, engine in zip(self.executors, self.engines, strict=True):
            executor.attach(engine.memory)
        deadline = time.monotonic() + TIMEOUT_S
        for executor in self.executors:
            while not all(serves for serves, _ in executor.remote_health()):
                assert time.monotonic() < deadline, executor.remote_health()
                executor.wait(0.01)
        self.planner = Planner.from_config(self.engines[0].layout, self.config)
        restored = inspect_ranks(folder, NUM_RANKS)
        assert restored is not None
        self.planner.restore(restored)

    def settle(self) -> None:
        """Carry out what is planned, and what follows from it."""
        while self.planner.pending_ids:
            heard: list[dict[int, Completion]] = [{} for _ in self.executors]
            commands = self.planner.take_commands()
            for executor, found in zip(self.executors, heard, strict=True):
                for command in commands:
                    executor.submit(command)
                while len(found) < len(commands):
                    executor.wait(1.0)
                    found |= {done.command_id: done for done in executor.poll()}
            worst = [min((h[i] for h in heard), key=lambda c: c.num_ok) for i in heard[0]]
            self.planner.apply(TickRecord(1000, tuple(worst)))

    def close(self) -> None:
        for executor in self.executors:
            executor.close()


def test_a_planner_finds_what_executors_elsewhere_have_on_disk(tmp_path):
    tokens = prompt(1, 3 * CHUNK)
    slots = np.arange(len(tokens), dtype=np.int64)
    first = Deployment(tmp_path)
    first.planner.store(tokens, lambda a, b: slots[a:b], time=first.planner.new_admission())
    first.settle()
    expected = [engine.rows(slots) for engine in first.engines]
    first.close()

    second = Deployment(tmp_path)
    for engine in second.engines:
        engine.wipe()
    prefetch = second.planner.prefetch(tokens)
    second.settle()
    with second.planner.acquire(tokens) as handle:
        second.planner.load(handle, 0, slots)
    second.settle()

    assert prefetch.done
    for engine, rows in zip(second.engines, expected, strict=True):
        assert np.array_equal(engine.rows(slots), rows)
    second.close()


def test_a_planner_finds_what_other_hosts_left_on_a_server(tmp_path):
    tokens = prompt(1, 3 * CHUNK + 5)
    slots = np.arange(len(tokens), dtype=np.int64)
    for server in running_server(tmp_path):
        first = Deployment(tmp_path / "first", server.unix_url)
        first.planner.store(tokens, lambda a, b: slots[a:b], time=first.planner.new_admission())
        first.settle()
        expected = [engine.rows(slots) for engine in first.engines]
        first.close()

        second = Deployment(tmp_path / "second", server.unix_url)
        for engine in second.engines:
            engine.wipe()
        prefetch = second.planner.prefetch(tokens)
        assert prefetch.may_reach_beyond(0)
        second.settle()
        assert prefetch.done
        with second.planner.acquire(tokens) as handle:
            second.planner.load(handle, 0, slots)
        second.settle()

        for engine, rows in zip(second.engines, expected, strict=True):
            assert np.array_equal(engine.rows(slots), rows)
        second.close()


def test_a_planner_is_as_large_as_the_executors(tmp_path):
    deployment = Deployment(tmp_path)

    stats = deployment.planner.index.stats()

    for executor in deployment.executors:
        assert stats.memory.total_units == executor.memory_units
        assert stats.disk.total_units == executor.disk_units
    deployment.close()


def test_ranks_whose_files_are_not_all_here_count_as_empty(tmp_path):
    Deployment(tmp_path).close()

    assert inspect_ranks(tmp_path, NUM_RANKS + 1) is None


def test_files_of_two_engines_are_refused(tmp_path):
    layout = KVLayout(num_layers=1, num_kv=2, row_bytes=64, dtype="int8")
    sizes = {"memory_size_bytes": 64 * MIB, "disk_size_bytes": 64 * MIB}
    for rank in range(NUM_RANKS):  # each in a folder of its own, else it would belong to the first
        config = CacheConfig(disk_path=tmp_path / str(rank), **sizes)
        Executor.from_config(
            layout, config, group_id=bytes([rank]) * 16, rank=rank, world_size=NUM_RANKS
        ).close()
    disk_file(tmp_path / "1", 1).replace(disk_file(tmp_path / "0", 1))

    with pytest.raises(TierFormatError, match="not made by one engine"):
        inspect_ranks(tmp_path / "0", NUM_RANKS)


def test_of_a_block_all_or_nothing_is_kept():
    layout = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="int8", block_tokens=8)
    planner = Planner.from_config(layout, CacheConfig(chunk_tokens=16, memory_size_bytes=1 * MIB))
    tokens = prompt(1, 32)

    command = planner.store(
        tokens, lambda a, b: np.arange(a, b), time=planner.new_admission(), limit=31
    )

    assert len(command.slots) == 24
    assert layout.whole_blocks(31) == 24


def test_a_chunk_is_a_whole_number_of_blocks():
    layout = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="int8", block_tokens=32)

    with pytest.raises(ValueError, match="multiple of 32"):
        Planner.from_config(layout, CacheConfig(chunk_tokens=48, memory_size_bytes=1 * MIB))


def test_layouts_with_and_without_blocks_are_told_apart():
    rows = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="int8")
    blocks = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="int8", block_tokens=32)

    assert rows.digest(64) != blocks.digest(64)


def test_only_tiers_below_memory_need_ticks_in_which_nothing_ends(tmp_path):
    layout = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="int8")
    memory = {"memory_size_bytes": 1 * MIB}
    disk = {"disk_path": tmp_path, "disk_size_bytes": 4 * MIB}

    assert not Planner.from_config(layout, CacheConfig(**memory)).needs_ticks
    assert Planner.from_config(layout, CacheConfig(**memory, **disk)).needs_ticks
    remote = CacheConfig(**memory, remotes=(parse_remote("redis://localhost"),))
    assert Planner.from_config(layout, remote).needs_ticks


def test_the_rate_of_computing_is_told_from_prefills_only():
    meter = RateMeter(now_s=10.0, min_tokens=64)
    meter.note_computed(640)
    elapsed_us, rates = meter.read(10.5)
    assert elapsed_us == 500_000
    assert rates.compute_tokens_per_s == 1280

    meter.note_computed(1)  # a step that only decodes

    _, rates = meter.read(11.0)
    assert rates.compute_tokens_per_s == 1280


def test_what_is_computed_as_it_is_launched_and_told_a_step_later_took_both_steps():
    meter = RateMeter(now_s=10.0, min_tokens=64)
    meter.note_launched()
    meter.read(10.4)
    meter.note_computed(640)
    _, rates = meter.read(10.5)
    assert rates.compute_tokens_per_s == 1280

    meter.read(20.0)  # nothing to do
    meter.note_launched()
    meter.note_computed(640)

    _, rates = meter.read(20.5)
    assert rates.compute_tokens_per_s == 1280
