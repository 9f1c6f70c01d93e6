"""KVCache on numpy arrays: what is stored comes back bit by bit, from memory and from disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from radixkv import (
    CacheConfig,
    CompletionStatus,
    ConfigError,
    Fetch,
    KVCache,
    KVLayout,
    Load,
    Namespace,
    Spill,
    Store,
    describe_arrays,
)
from radixkv.pause import Pause
from radixkv.tiers import sizes as tier_sizes

CHUNK = 16
NUM_SLOTS = 512
MIB = 1 << 20
ALL = np.empty(0, np.uint32)


class Engine:
    """KV memory of a made-up engine: one array for each layer's K and V, a row a slot."""

    def __init__(self, num_layers: int = 3, num_kv: int = 2, row: int = 40, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.arrays = [
            random.integers(0, 255, (NUM_SLOTS, row), np.uint8) for _ in range(num_layers * num_kv)
        ]
        self.layout, self.memory = describe_arrays(self.arrays, num_kv)

    def rows(self, slots: np.ndarray) -> np.ndarray:
        return np.stack([array[slots] for array in self.arrays])

    def wipe(self) -> None:
        for array in self.arrays:
            array[:] = 0xEE


def open_cache(engine: Engine, disk: Path | None = None, **settings) -> KVCache:
    config = CacheConfig(
        chunk_tokens=CHUNK,
        memory_size_bytes=64 * MIB,
        disk_path=disk,
        disk_size_bytes=64 * MIB,
        **settings,
    )
    return KVCache(engine.layout, config, engine=engine.memory)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def cache(engine: Engine) -> Iterator[KVCache]:
    with open_cache(engine) as cache:
        yield cache


def prompt(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50_000, length).astype(np.uint32)


def slots(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(NUM_SLOTS)[:count].astype(np.int64)


def stored(cache: KVCache, engine: Engine, tokens: np.ndarray, seed: int = 5) -> np.ndarray:
    """Store a prompt, wipe the engine, and give what its rows were."""
    where = slots(seed, len(tokens))
    rows = engine.rows(where)
    assert cache.store(tokens, where).wait()
    engine.wipe()
    return rows


@pytest.mark.parametrize("num_kv", [1, 2])
@pytest.mark.parametrize("row", [1, 7, 64, 1152])
@pytest.mark.parametrize("length", [1, 16, 53])
def test_what_is_stored_comes_back_anywhere(num_kv, row, length):
    engine = Engine(num_kv=num_kv, row=row)
    tokens = prompt(1, length)
    with open_cache(engine) as cache:
        rows = stored(cache, engine, tokens)
        where = slots(9, length)

        with cache.acquire(tokens) as handle:
            assert cache.load(handle, where).wait()

        assert np.array_equal(engine.rows(where), rows)
        untouched = np.setdiff1d(np.arange(NUM_SLOTS), where)
        assert (engine.rows(untouched) == 0xEE).all()


def test_a_match_ends_at_any_token_and_loads_to_it(engine, cache):
    tokens = prompt(1, 50)
    rows = stored(cache, engine, tokens)
    other = np.concatenate([tokens[:37], prompt(2, 20)])

    with cache.acquire(other) as handle:
        assert handle.num_memory_tokens == 37
        ticket = cache.load(handle, slots(9, 32), first_token=5)
        assert all(ticket.wait_layer(layer) for layer in range(3))
        assert ticket.wait()

    assert np.array_equal(engine.rows(slots(9, 32)), rows[:, 5:37])


def test_tokens_of_any_width_find_the_same(engine, cache):
    tokens = prompt(1, 40)
    stored(cache, engine, tokens)

    for dtype in (np.int32, np.int64, np.uint32):
        assert cache.match(tokens.astype(dtype)).num_tokens == 40
    with pytest.raises(TypeError):
        cache.match(tokens.astype(np.float32))


def test_namespaces_share_nothing(engine, cache):
    tokens = prompt(1, 40)
    stored(cache, engine, tokens)
    tenant = cache.namespace_id(Namespace("", engine.layout.digest(CHUNK), request_key="tenant"))

    assert cache.match(tokens, tenant).num_tokens == 0


def test_slots_that_do_not_cover_the_tokens_are_named(cache):
    with pytest.raises(ValueError, match=r"slots: expected int64 \(40,\), got int64 \(39,\)"):
        cache.store(prompt(1, 40), np.arange(39))
    with pytest.raises(ValueError, match="slots"):
        cache.store(prompt(1, 40), np.arange(40, dtype=np.int32))


def test_slots_of_any_stride_do(engine, cache):
    tokens, where = prompt(1, 40), np.arange(80)[::2]
    rows = engine.rows(where)

    assert cache.store(tokens, where).wait()
    engine.wipe()
    with cache.acquire(tokens) as handle:
        assert cache.load(handle, where).wait()

    assert np.array_equal(engine.rows(where), rows)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (list(range(40)), "an int64 array or a function"),
        (lambda first, last: np.arange(first, last - 1), "of 40 tokens, got 39"),
        (lambda first, last: list(range(first, last)), "expected an array"),
        (lambda first, last: np.arange(first, last, dtype=np.int32), "expected int64"),
        (lambda first, last: None, "len"),
    ],
)
def test_slots_of_another_kind_are_named_and_leave_nothing_behind(cache, slots, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cache.store(prompt(1, 40), slots)

    assert cache.settle()
    assert cache.planner.index.stats().memory.writing_chunks == 0


def test_a_load_of_nothing_is_refused(engine, cache):
    with (
        cache.acquire(prompt(1, 40)) as handle,
        pytest.raises(ValueError, match="slots: expected at least one"),
    ):
        cache.load(handle, np.arange(handle.num_tokens))


def test_a_limit_is_a_whole_number(cache):
    with pytest.raises(TypeError, match="limit: expected a whole number, got float"):
        cache.match(prompt(1, 40), limit=1.5)


def test_slots_outside_the_engine_leave_nothing_behind(cache):
    with pytest.raises(ValueError, match="slot"):
        cache.store(prompt(1, 40), np.arange(40) + NUM_SLOTS)

    cache.tick()
    assert cache.planner.index.stats().memory.writing_chunks == 0
    assert cache.planner.pending_ids == []


def test_a_restart_finds_the_disk(engine, tmp_path):
    tokens = prompt(1, 53)
    with open_cache(engine, tmp_path / "disk") as cache:
        rows = stored(cache, engine, tokens)
        assert cache.settle()

    with open_cache(engine, tmp_path / "disk") as cache:
        assert cache.num_restored_chunks == 4
        assert cache.match(tokens).num_tokens == 53
        assert cache.fetch(tokens) == 53
        with cache.acquire(tokens) as handle:
            assert cache.load(handle, slots(9, 53)).wait()

    assert np.array_equal(engine.rows(slots(9, 53)), rows)


def test_a_folder_may_have_any_name(engine, tmp_path):
    for _ in range(2):
        with open_cache(engine, tmp_path / os.fsdecode(b"caf\xe9 \n")) as cache:
            stored(cache, engine, prompt(1, 40))
            cache.settle()

            assert cache.fetch(prompt(1, 40)) == 40


def test_a_folder_stays_where_it_was_however_the_process_moves(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_cache(engine, Path("disk")) as cache:
        stored(cache, engine, prompt(1, 40))
        assert cache.settle()
        monkeypatch.chdir("/")

        assert cache.export_chunks(prompt(1, 40), tmp_path / "file").num_tokens == 40

    with open_cache(engine, tmp_path / "disk") as cache:
        assert cache.match(prompt(1, 40)).num_tokens == 40


def test_nobody_else_reads_what_is_on_disk(engine, tmp_path):
    with open_cache(engine, tmp_path / "disk") as cache:
        stored(cache, engine, prompt(1, 40))
        assert cache.settle()

    files = sorted((tmp_path / "disk").iterdir())
    assert [file.name for file in files] == ["index.journal", "rank0.lock", "rank0.radixkv"]
    assert not any(file.stat().st_mode & 0o077 for file in [tmp_path / "disk", *files])


def test_a_prompt_may_lie_on_both_tiers(engine, tmp_path):
    tokens = prompt(1, 80)
    with open_cache(engine, tmp_path / "disk") as cache:
        rows = stored(cache, engine, tokens)
        assert cache.settle()
        cache.clear()
        assert cache.fetch(tokens[:32]) == 32
        assert cache.match(tokens).num_memory_tokens == 32

        assert cache.fetch(tokens) == 80
        with cache.acquire(tokens) as handle:
            assert cache.load(handle, slots(9, 80)).wait()

    assert np.array_equal(engine.rows(slots(9, 80)), rows)


@pytest.mark.parametrize("namespace", [77, -1, Namespace("", bytes(16)), "tenant"])
def test_a_namespace_of_nobody_is_named(cache, namespace, tmp_path):
    for call in (
        lambda: cache.match(prompt(1, 40), namespace),
        lambda: cache.store(prompt(1, 40), slots(5, 40), namespace),
        lambda: cache.import_chunks(tmp_path / "file", namespace),
    ):
        with pytest.raises(ValueError, match="namespace: expected a number from namespace_id, got"):
            call()


def test_a_ticket_knows_its_end_however_much_ends_after_it(engine, cache):
    tokens = prompt(1, 40)
    first = cache.store(tokens, slots(5, 40))
    assert first.wait()
    with cache.acquire(tokens) as handle:
        for _ in range(10):
            for slot in range(NUM_SLOTS):
                cache.load(handle, np.array([slot]))
            assert cache.settle()  # only then another load may write to the slots

    assert first.done
    assert first.wait(timeout_s=0)


def test_a_failed_store_is_a_miss_and_can_be_repeated(engine, cache):
    tokens = prompt(1, 40)
    cache.executor.inject_fault(Store, fail=True)

    assert not cache.store(tokens, slots(5, 40)).wait()

    assert cache.match(tokens).num_tokens == 0
    assert cache.store(tokens, slots(5, 40)).wait()


def test_a_failed_load_says_so(engine, cache):
    tokens = prompt(1, 40)
    stored(cache, engine, tokens)
    cache.executor.inject_fault(Load, fail=True)

    with cache.acquire(tokens) as handle:
        ticket = cache.load(handle, slots(9, 40))
        assert not ticket.wait_layer(0)
        assert not ticket.wait()

    assert cache.planner.index.stats().memory.uses == 0


def test_a_subtree_moves_to_disk_and_back(engine, tmp_path):
    with open_cache(engine, tmp_path) as cache:
        tokens, other = prompt(1, 53), prompt(2, 32)
        rows = stored(cache, engine, tokens)
        stored(cache, engine, other)
        space = cache.namespace_id(cache.namespace)

        assert cache.move(tokens[:20], "disk") == 3
        assert cache.match(tokens).num_memory_tokens == CHUNK
        assert cache.match(tokens).num_tokens == 53
        assert cache.planner.index.subtree_stats(other, space).memory_chunks == 1
        assert cache.move(tokens[:20], "memory") == 3

        where = slots(8, 53)
        with cache.acquire(tokens) as handle:
            assert cache.load(handle, where).wait()
        assert (engine.rows(where) == rows).all()


def test_a_move_to_no_tier_is_refused(cache):
    with pytest.raises(ValueError, match="tier: expected 'memory' or 'disk', got 'dsik'"):
        cache.move(prompt(1, 20), "dsik")


@pytest.mark.parametrize("forgets_all", [False, True])
def test_what_is_forgotten_while_it_is_written_stays_so(engine, tmp_path, forgets_all):
    with open_cache(engine, tmp_path / "disk") as cache:
        stored(cache, engine, prompt(1, 100))
        assert cache.planner.pending_ids  # the spill

        cache.clear(disk=True) if forgets_all else cache.drop(ALL)
        cache.settle()

    with open_cache(engine, tmp_path / "disk") as cache:
        assert cache.num_restored_chunks == 0


@pytest.mark.parametrize("forgets_all", [False, True])
def test_what_left_the_disk_before_it_was_forgotten_stays_so(engine, tmp_path, forgets_all):
    """A longer prompt takes the place of a short one, whose header stays in the file."""
    tokens = prompt(1, CHUNK)
    with open_cache(engine, tmp_path, tail_slack=0) as cache:
        for num_tokens in (3, CHUNK):
            assert cache.store(tokens[:num_tokens], slots(1, num_tokens)).wait()
            cache.settle()
        cache.clear(disk=True) if forgets_all else cache.drop(ALL)
        cache.settle()

    with open_cache(engine, tmp_path) as cache:
        assert cache.num_restored_chunks == 0


def test_a_disk_of_small_chunks_takes_new_ones_for_ever(engine, tmp_path):
    system, random = prompt(1, 2 * CHUNK), np.random.default_rng(3)
    config = CacheConfig(
        chunk_tokens=CHUNK,
        memory_size_bytes=4 * MIB,
        disk_path=tmp_path / "disk",
        disk_size_bytes=2 * MIB,  # 64 headers
    )
    with KVCache(engine.layout, config, engine=engine.memory) as cache:
        for seed in range(2, 400):
            question = prompt(seed, int(random.integers(1, CHUNK)))
            cache.store(np.concatenate([system, question]), slots(0, 2 * CHUNK + len(question)))
            cache.settle()

        assert cache.planner.counters.spills_failed == 0
        assert cache.planner.counters.spilled == cache.planner.counters.stored


def test_what_expires_is_gone_after_a_restart(engine, tmp_path):
    with open_cache(engine, tmp_path) as cache:
        tokens, other = prompt(1, 32), prompt(2, 32)
        index, space = cache.planner.index, cache.namespace_id(cache.namespace)
        index.set_time_to_live(tokens[:5], 10, space)
        stored(cache, engine, tokens)
        stored(cache, engine, other)
        assert cache.settle()

        assert cache.planner.advance(12) == 4
        assert cache.settle()

    with open_cache(engine, tmp_path) as cache:
        assert cache.match(tokens).num_tokens == 0
        assert cache.match(other).num_tokens == 32


def test_a_failed_fetch_is_a_miss(engine, tmp_path):
    tokens = prompt(1, 40)
    with open_cache(engine, tmp_path / "disk") as cache:
        stored(cache, engine, tokens)
        assert cache.settle()
        cache.clear()
        cache.executor.inject_fault(Fetch, fail=True)

        assert cache.fetch(tokens) == 0
        assert cache.planner.index.stats().pins == 0


def test_a_failed_spill_leaves_memory_as_it_is(engine, tmp_path):
    tokens = prompt(1, 40)
    with open_cache(engine, tmp_path / "disk") as cache:
        cache.executor.inject_fault(Spill, fail=True)
        rows = stored(cache, engine, tokens)
        assert cache.settle()

        with cache.acquire(tokens) as handle:
            assert cache.load(handle, slots(9, 40)).wait()

    assert np.array_equal(engine.rows(slots(9, 40)), rows)


def test_a_disk_that_fails_is_told_of_once_until_it_serves_again(caplog):
    caplog.set_level("INFO")
    pause = Pause(1_000_000, 60_000_000, told_as="disk /kv")

    for second, status in enumerate(["FAILED", "OK", "FAILED", "FULL", "FAILED", "OK", "FAILED"]):
        pause.note(CompletionStatus[status], 1_000_000 * second)

    assert caplog.messages == [
        "disk /kv: fails, tried again at least every 60 s",
        "disk /kv: serves again",
    ]


def test_more_prompts_than_memory_holds_evict_the_oldest(tmp_path):
    engine = Engine(num_layers=8, row=4096)
    with open_cache(engine, tmp_path / "disk") as cache:
        for seed in range(24):
            stored(cache, engine, prompt(seed, 64))
            assert cache.settle()  # what is on its way to disk cannot be evicted

        assert cache.match(prompt(23, 64)).num_memory_tokens == 64
        assert cache.match(prompt(0, 64)).num_memory_tokens == 0
        cache.planner.index.check_invariants()


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"memory_size_bytes": 1 * MIB}, "memory.size"),
        ({"memory_size_bytes": 64 * MIB, "disk_size_bytes": 1 * MIB}, "disk.size"),
    ],
)
def test_a_tier_without_room_for_a_chunk_is_refused_by_its_key(engine, tmp_path, sizes, key):
    config = CacheConfig(chunk_tokens=512, disk_path=tmp_path / "kv", **sizes)
    layout = KVLayout(num_layers=32, num_kv=2, row_bytes=2048, dtype="float16")

    with pytest.raises(ConfigError, match=f"{key}: .* no room for one chunk of 512 tokens, 64MiB"):
        KVCache(layout, config)


def test_more_memory_than_the_process_may_use_is_refused_before_it_is_taken(engine, monkeypatch):
    monkeypatch.setattr(tier_sizes, "memory_limit_bytes", lambda: 32 * MIB)

    with pytest.raises(ConfigError, match=r"memory\.size: .* is 64MiB, this process may use 32MiB"):
        open_cache(engine)


def test_more_memory_than_the_host_has_now_is_told(engine, monkeypatch, caplog):
    monkeypatch.setattr(tier_sizes, "memory_limit_bytes", lambda: None)
    monkeypatch.setattr(tier_sizes, "usable_memory_bytes", lambda: 32 * MIB)

    with open_cache(engine):
        pass

    assert "memory.size: a rank's share is 64MiB, this host has 32MiB" in caplog.text


def test_closing_twice_is_fine(engine):
    cache = open_cache(engine)

    cache.close()
    cache.close()
