"""Two ranks of one engine, each with a planner, an executor and a disk of its own, in threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest
from redis_server import RedisServer, remote_config
from test_cache import CHUNK, MIB, NUM_SLOTS, Engine, prompt

from radixkv import CacheConfig, Fetch, KVCache, RankGroup, Spill, Store, TickRow, TierFormatError
from radixkv.restore import fingerprints, in_common
from radixkv.tiers.disk import RestoredChunks, disk_file

NUM_RANKS = 2
TIMEOUT_S = 60.0

Value = TypeVar("Value")


class Meeting:
    """Where the threads exchange values. A rank that fails breaks it for all, so nothing hangs."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(NUM_RANKS, timeout=TIMEOUT_S)
        self.values: list = [None] * NUM_RANKS


class ThreadGroup(RankGroup):
    """One thread's view of the meeting. Ranks that come to it for different reasons fail."""

    size = NUM_RANKS

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting = meeting
        self.rank = rank
        self.num_rows = 0

    def gather(self, value: Value) -> list[Value]:
        return self._meet("gather", value)

    def minimum(self, row: TickRow) -> TickRow:
        self.num_rows += 1
        return np.min(self._meet(f"row {self.num_rows} of {row.shape}", row), axis=0)

    def _meet(self, reason: str, value: Value) -> list[Value]:
        self._meeting.values[self.rank] = reason, value
        self._meeting.barrier.wait()
        reasons, values = zip(*self._meeting.values, strict=True)
        self._meeting.barrier.wait()
        assert len(set(reasons)) == 1, reasons
        return list(values)


def on_all_ranks(run: Callable[[ThreadGroup], Value]) -> list[Value]:
    """What each rank gives; the first error, if one fails."""
    meeting = Meeting()
    results: list = [None] * NUM_RANKS
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            results[rank] = run(ThreadGroup(meeting, rank))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(NUM_RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return results


def open_rank(group: RankGroup, engine: Engine, folder: Path) -> KVCache:
    config = CacheConfig(
        chunk_tokens=CHUNK,
        memory_size_bytes=64 * MIB * NUM_RANKS,
        disk_path=folder,
        disk_size_bytes=64 * MIB * NUM_RANKS,
        disk_durable="none",  # nobody waits a second for a sync here
        prefetch_deadline_s=5.0,
    )
    return KVCache(engine.layout, config, engine=engine.memory, group=group)


def tick_until_idle(cache: KVCache, group: ThreadGroup) -> None:
    """Every rank ticks as often: whether to go on is agreed."""
    while any(group.gather(bool(cache.planner.pending_ids))):
        cache.wait_for_completion(0.01)
        tick(cache, group)


def tick(cache: KVCache, group: ThreadGroup) -> None:
    """Ranks agree once in a tick, or not at all where nothing is under way on any."""
    is_busy, num_rows = bool(cache.planner.pending_ids), group.num_rows
    cache.tick()
    assert group.num_rows == num_rows + is_busy


def misbehave(cache: KVCache, chance: random.Random) -> None:
    for kind in (Store, Spill, Fetch):
        if chance.random() < 0.15:
            cache.executor.inject_fault(kind, fail=chance.random() < 0.5, delay_s=0.02)


def serve(group: ThreadGroup, folder: Path, seed: int) -> list[int]:
    """A hundred steps of an engine; the state after each of them."""
    engine = Engine(seed=group.rank)
    requests, own = random.Random(seed), random.Random(1000 * seed + group.rank)
    kept: dict[int, np.ndarray] = {}
    hashes = []
    with open_rank(group, engine, folder) as cache:
        for _ in range(100):
            if group.rank == 1:
                misbehave(cache, own)
            name, length = requests.randrange(5), requests.randrange(1, 100)
            tokens, action = prompt(name, 100)[:length], requests.random()
            where = np.array(requests.sample(range(NUM_SLOTS), length), np.int64)
            if action < 0.5:
                expected = kept.setdefault(name, np.random.default_rng(name).bytes(40 * 100))
                rows = np.frombuffer(expected, np.uint8).reshape(100, 40)[:length] + group.rank
                for array in engine.arrays:
                    array[where] = rows
                cache.store(tokens, where)
                tick_until_idle(cache, group)
            elif action < 0.8:
                with cache.acquire(tokens) as handle:
                    found = handle.num_memory_tokens
                    if found:
                        cache.load(handle, where[:found])
                tick_until_idle(cache, group)
                if found:
                    rows = np.frombuffer(kept[name], np.uint8).reshape(100, 40)[:found]
                    assert all((a[where[:found]] == rows + group.rank).all() for a in engine.arrays)
            elif action < 0.9:
                prefetch = cache.prefetch(tokens)
                tick(cache, group)
                if prefetch is not None:
                    tick_until_idle(cache, group)
                    cache.end_prefetch(prefetch)
            else:
                cache.clear()
            hashes.append(cache.planner.index.state_hash())
        tick_until_idle(cache, group)
        assert cache.planner.index.stats().pins == 0
        cache.planner.index.check_invariants()
    return hashes


@pytest.mark.parametrize("seed", range(4))
def test_ranks_stay_equal_and_right_though_one_is_slow_and_fails(seed, tmp_path):
    first, second = on_all_ranks(lambda group: serve(group, tmp_path / "disk", seed))

    assert first == second


def keep_one_prompt(group: ThreadGroup, folder: Path) -> int:
    engine = Engine(seed=group.rank)
    with open_rank(group, engine, folder) as cache:
        cache.store(prompt(1, 80), np.arange(80))
        tick_until_idle(cache, group)
        return cache.match(prompt(1, 80)).num_tokens


def count_restored(group: ThreadGroup, folder: Path) -> int:
    with open_rank(group, Engine(seed=group.rank), folder) as cache:
        assert cache.match(prompt(1, 80)).num_tokens == cache.num_restored_chunks * CHUNK
        return cache.num_restored_chunks


def test_a_restart_counts_what_every_rank_has(tmp_path):
    on_all_ranks(lambda group: keep_one_prompt(group, tmp_path))
    assert on_all_ranks(lambda group: count_restored(group, tmp_path)) == [5, 5]

    spoil_last_header(disk_file(tmp_path, 1))

    assert on_all_ranks(lambda group: count_restored(group, tmp_path)) == [4, 4]


def spoil_last_header(file: Path) -> None:
    """Flip a bit in the header of the chunk that ends at token 80."""
    wanted = prompt(1, 80)[-CHUNK:].tobytes()
    contents = file.read_bytes()
    place = contents.index(wanted)
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes([contents[place] ^ 1]))


def prompts_on_disk(sequences: list[int], parents: list[int]) -> RestoredChunks:
    """Chunks whose tokens and places follow from their sequence numbers."""
    sequence = np.array(sequences, np.uint64)
    count = len(sequences)
    return RestoredChunks(
        parent_index=np.array(parents, np.int64),
        num_tokens=np.full(count, CHUNK, np.uint16),
        tokens=np.repeat(sequence, CHUNK).astype(np.uint32),
        disk_offset=sequence.astype(np.uint32),
        num_units=np.ones(count, np.uint16),
        namespace_index=np.zeros(count, np.int32),
        sequence=sequence,
        keys=np.repeat(sequence, 16).astype(np.uint8).reshape(count, 16),
        digests=[bytes(16)],
        group_id=bytes(16),
        dropped={},
    )


def test_what_ranks_have_in_common_has_one_order():
    one = prompts_on_disk([1, 2, 5, 6], [-1, -1, 0, 1])
    # Chunk 0 brought 2, which is above it, to the front.
    other = prompts_on_disk([2, 0, 1, 6, 7], [-1, 0, -1, 0, 2])
    ranks = [fingerprints(one), fingerprints(other)]

    in_one, in_other = in_common(one, ranks), in_common(other, ranks)

    assert in_one.sequence.tolist() == in_other.sequence.tolist() == [1, 2, 6]
    assert in_one.parent_index.tolist() == in_other.parent_index.tolist() == [-1, -1, 1]
    assert in_one.last_sequence == in_other.last_sequence == 7
    tokens = np.repeat([1, 2, 6], CHUNK).tolist()
    assert in_one.tokens.tolist() == in_other.tokens.tolist() == tokens


def test_files_that_were_not_made_together_are_refused(tmp_path):
    for engine in "ab":
        on_all_ranks(lambda group, engine=engine: keep_one_prompt(group, tmp_path / engine))
    disk_file(tmp_path / "b", 1).replace(disk_file(tmp_path / "a", 1))

    with pytest.raises(TierFormatError, match="not made by one engine"):
        on_all_ranks(lambda group: count_restored(group, tmp_path / "a"))


@pytest.mark.parametrize("lost", range(NUM_RANKS))
def test_a_rank_without_a_file_makes_one_that_belongs_to_the_others(tmp_path, lost):
    """As after a kill between the making of the first file and of the last."""
    on_all_ranks(lambda group: keep_one_prompt(group, tmp_path))
    disk_file(tmp_path, lost).unlink()

    assert on_all_ranks(lambda group: count_restored(group, tmp_path)) == [0, 0]
    assert on_all_ranks(lambda group: keep_one_prompt(group, tmp_path)) == [80, 80]
    assert on_all_ranks(lambda group: count_restored(group, tmp_path)) == [5, 5]


def share(group: ThreadGroup, server: RedisServer, tokens: np.ndarray, *, stores: bool) -> int:
    """Store a prompt and write it through, or find it there; gives the tokens in memory."""
    engine = Engine(seed=group.rank)
    rows = engine.rows(np.arange(len(tokens)))
    config = remote_config(server.unix_url, memory={"size": "128MiB"})
    with KVCache(engine.layout, config, engine=engine.memory, group=group) as cache:
        deadline = time.monotonic() + TIMEOUT_S
        while not all(group.gather(cache.executor.remote_health()[0][0])):
            assert time.monotonic() < deadline, cache.executor.remote_health()
            cache.wait_for_completion(0.01)
        if stores:
            cache.store(tokens, np.arange(len(tokens)))
            tick_until_idle(cache, group)
        else:
            engine.wipe()
            prefetch = cache.prefetch(tokens)
            tick_until_idle(cache, group)
            cache.end_prefetch(prefetch)
        with cache.acquire(tokens) as handle:
            found = handle.num_memory_tokens
            if found:
                cache.load(handle, np.arange(found))
        tick_until_idle(cache, group)
        assert np.array_equal(engine.rows(np.arange(found)), rows[:, :found])
        return found


def test_of_a_remote_server_counts_what_it_has_of_every_rank(tmp_path):
    tokens = prompt(1, 4 * CHUNK)
    server = RedisServer(tmp_path)
    try:
        kept = on_all_ranks(lambda group: share(group, server, tokens, stores=True))
        assert kept == [len(tokens)] * NUM_RANKS
        assert len(server.objects()) == 4 * NUM_RANKS
        assert on_all_ranks(lambda group: share(group, server, tokens, stores=False)) == kept

        server.client.delete(next(name for name in server.objects() if b":1/2:" in name))

        [first, second] = on_all_ranks(lambda group: share(group, server, tokens, stores=False))
        assert first == second < len(tokens)
    finally:
        server.close()


class TwinGroup(RankGroup):
    """The first of two ranks; the other always says the same."""

    size = NUM_RANKS

    def gather(self, value: Value) -> list[Value]:
        return [value, value]


def test_an_engine_that_had_nothing_to_do_has_not_computed_slowly(monkeypatch):
    engine, now = Engine(), [100.0]
    monkeypatch.setattr("radixkv.cache.time", SimpleNamespace(monotonic=lambda: now[0]))
    config = CacheConfig(chunk_tokens=CHUNK, memory_size_bytes=64 * MIB * NUM_RANKS, metrics=False)
    records = []
    with KVCache(engine.layout, config, engine=engine.memory, group=TwinGroup()) as cache:
        apply = cache.planner.apply
        monkeypatch.setattr(
            cache.planner, "apply", lambda record: records.append(record) or apply(record)
        )
        now[0] = 160.0
        cache.tick()
        cache.note_launched()
        now[0] = 160.5
        cache.note_computed(640)
        assert cache.store(prompt(1, 40), np.arange(40)).wait()

    assert records[0].rates.compute_tokens_per_s == 1280
    assert sum(record.elapsed_us for record in records) == 60_500_000  # pauses end all the same
