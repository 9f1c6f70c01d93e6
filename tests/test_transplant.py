"""Subtrees with their bytes in a file: what another cache makes of them, and of damaged ones."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from files import files_limited_to
from killed_script import kill_once_there
from test_cache import CHUNK, MIB, NUM_SLOTS, Engine, open_cache, prompt, slots
from test_ranks import ThreadGroup, on_all_ranks, open_rank

from radixkv import CacheConfig, ChunkFileError, KVCache, Namespace, Transplanted
from radixkv.chunk_file import ChunkFile, ChunkFileWriter, StoredForm, checksum

ALL = np.empty(0, np.uint32)
TOKEN_BYTES = 240  # of test_cache's engine
FOOTER_BYTES = 96


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kv.chunks"


def store(cache: KVCache, engine: Engine, tokens: np.ndarray) -> np.ndarray:
    """Stores a prompt; gives its rows."""
    where = (tokens % NUM_SLOTS).astype(np.int64)  # equal tokens have equal rows
    ticket = cache.store(tokens, where)
    assert ticket is None or ticket.wait()
    return engine.rows(where)


def load(cache: KVCache, engine: Engine, tokens: np.ndarray) -> np.ndarray:
    """Loads what memory has of a prompt; gives the rows that came."""
    with cache.acquire(tokens) as handle:
        where = slots(3, handle.num_memory_tokens)
        engine.wipe()
        assert not len(where) or cache.load(handle, where).wait()
    return engine.rows(where)


def family() -> list[np.ndarray]:
    """A system prompt of 40 tokens, two prompts behind it, and one of its own."""
    system = prompt(1, 40)
    return [
        np.concatenate([system, prompt(2, 70)]),
        np.concatenate([system, prompt(3, 21)]),
        prompt(4, 100),
    ]


@pytest.mark.parametrize("with_disk", [False, True])
def test_another_cache_has_what_was_exported(tmp_path, file, with_disk):
    engine = Engine()
    with open_cache(engine, tmp_path / "a" if with_disk else None) as cache:
        rows = [store(cache, engine, tokens) for tokens in family()]
        done = cache.export_chunks(ALL, file)
        kept = cache.planner.index.stats().chunks
    other = Engine(seed=1)
    with open_cache(other, tmp_path / "b" if with_disk else None) as cache:
        assert cache.import_chunks(file) == done

        for tokens, wanted in zip(family(), rows, strict=True):
            assert np.array_equal(load(cache, other, tokens), wanted)
        cache.planner.index.check_invariants()
    assert done.num_chunks == kept
    assert (done.num_damaged, done.num_left) == (0, 0)
    if with_disk:  # and so it went to the disk
        with open_cache(other, tmp_path / "b") as cache:
            assert cache.num_restored_chunks == kept


def test_only_what_begins_with_the_prefix_is_exported_and_what_leads_there(file):
    engine = Engine()
    with open_cache(engine) as cache:
        rows = [store(cache, engine, tokens) for tokens in family()]
        done = cache.export_chunks(family()[0][:50], file)
    with open_cache(engine) as cache:
        assert cache.import_chunks(file).num_tokens == done.num_tokens == 110

        assert np.array_equal(load(cache, engine, family()[0]), rows[0])
        assert [cache.match(tokens).num_tokens for tokens in family()[1:]] == [40, 0]


def test_what_only_the_disk_has_is_exported(tmp_path, file):
    engine = Engine()
    with open_cache(engine, tmp_path / "disk") as cache:
        rows = store(cache, engine, prompt(1, 53))
        assert cache.move(ALL, "disk") == 4
        cache.export_chunks(ALL, file)
    with open_cache(engine) as cache:
        cache.import_chunks(file)

        assert np.array_equal(load(cache, engine, prompt(1, 53)), rows)


def test_a_smaller_cache_keeps_what_was_used_last(file):
    engine = Engine(row=4096)  # a chunk takes 384 KiB
    prompts = [prompt(seed, 3 * CHUNK) for seed in range(1, 9)]
    with open_cache(engine) as cache:
        rows = [store(cache, engine, tokens) for tokens in prompts]
        cache.acquire(prompts[0]).close()  # marks it as used
        cache.export_chunks(ALL, file)
    config = CacheConfig(chunk_tokens=CHUNK, memory_size_bytes=4 * MIB)
    other = Engine(row=4096, seed=1)
    with KVCache(other.layout, config, engine=other.memory) as cache:
        cache.import_chunks(file)

        index = cache.planner.index
        index.check_invariants()
        whole = [cache.match(tokens).num_memory_tokens == 3 * CHUNK for tokens in prompts]
        assert whole == [True, *[False] * 5, True, True]
        for tokens, wanted in zip(prompts, rows, strict=True):
            found = load(cache, other, tokens)
            assert np.array_equal(found, wanted[:, : found.shape[1]])
        assert index.stats().memory.writing_chunks == 0


def test_a_prompt_that_is_larger_than_memory_comes_in_part(file):
    engine = Engine(row=4096)
    tokens = prompt(1, 30 * CHUNK)
    with open_cache(engine) as cache:
        rows = store(cache, engine, tokens)
        cache.export_chunks(ALL, file)
    config = CacheConfig(chunk_tokens=CHUNK, memory_size_bytes=4 * MIB)
    with KVCache(engine.layout, config, engine=engine.memory) as cache:
        done = cache.import_chunks(file)

        assert done.num_chunks + done.num_left == 30
        assert done.num_chunks == 10
        assert np.array_equal(load(cache, engine, tokens), rows[:, : 10 * CHUNK])


def test_importing_again_takes_in_nothing(file):
    engine = Engine()
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 53))
        cache.export_chunks(ALL, file)

        assert cache.import_chunks(file) == Transplanted(0, 0, 0, 4)


def test_each_flipped_bit_costs_no_more_than_its_chunks(file):
    engine = Engine()
    tokens = family()
    with open_cache(engine) as cache:
        rows = [store(cache, engine, each) for each in tokens]
        cache.export_chunks(ALL, file)
        whole = file.read_bytes()
        random = np.random.default_rng(5)
        num_refused = num_damaged = 0
        for place in random.choice(len(whole), 60, replace=False).tolist():
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            cache.clear()
            try:
                num_damaged += cache.import_chunks(file).num_damaged
            except ChunkFileError:
                num_refused += 1
                assert cache.planner.index.stats().chunks == 0
            for each, wanted in zip(tokens, rows, strict=True):
                found = load(cache, engine, each)
                assert np.array_equal(found, wanted[:, : found.shape[1]])

    assert num_damaged > 30
    assert num_refused + num_damaged == 60


def test_a_file_that_was_cut_anywhere_is_refused(file):
    engine = Engine()
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 40))
        cache.export_chunks(ALL, file)
    whole = file.read_bytes()
    with open_cache(engine) as cache:
        for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 200, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(ChunkFileError):
                cache.import_chunks(file)

        assert cache.planner.index.stats().chunks == 0


@pytest.mark.parametrize("begin", [0, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_directory_that_is_said_to_be_elsewhere_is_refused(file, begin):
    """By a file whose checksums are right: they say nothing about who made it."""
    engine = Engine()
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 40))
        cache.export_chunks(ALL, file)
        whole = bytearray(file.read_bytes())
        whole[-24:-16] = begin.to_bytes(8, "little")
        whole[-8:] = checksum(bytes(whole[-FOOTER_BYTES:-8])).to_bytes(8, "little")
        file.write_bytes(whole)

        with pytest.raises(ChunkFileError, match="its directory is damaged"):
            cache.import_chunks(file)


def test_damage_on_disk_leaves_out_the_chunk_and_what_lies_below(tmp_path, file):
    engine = Engine()
    with open_cache(engine, tmp_path / "disk") as cache:
        store(cache, engine, prompt(1, 4 * CHUNK))
        cache.move(ALL, "disk")
        stored = cache.planner.index.walk(ALL, 1)
        unit, second = cache.planner.index.unit_bytes, int(stored.chunks["disk_offset"][1])
        data = tmp_path / "disk" / "rank0.radixkv"
        content = bytearray(data.read_bytes())
        payloads = len(content) - cache.executor.disk_units * unit
        content[payloads + second * unit + 5] ^= 1
        data.write_bytes(content)

        done = cache.export_chunks(ALL, file)

        assert (done.num_chunks, done.num_damaged, done.num_left) == (1, 1, 2)


def test_another_layout_or_namespace_is_refused(file):
    engine = Engine()
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 40))
        cache.export_chunks(ALL, file)
        tenant = cache.namespace_id(Namespace("", b"", request_key="tenant"))
        with pytest.raises(ChunkFileError, match="nothing of namespace"):
            cache.import_chunks(file, tenant)
    wider = Engine(row=48)
    with open_cache(wider) as cache, pytest.raises(ChunkFileError, match="another layout"):
        cache.import_chunks(file)


def test_an_export_that_fails_leaves_the_file_before(file, monkeypatch):
    engine = Engine()
    file.write_bytes(b"before")
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 40))

        def fail(done: int, total: int) -> None:
            if done:
                raise OSError("no more room")

        with pytest.raises(OSError, match="no more room"):
            cache.export_chunks(ALL, file, progress=fail)

    assert file.read_bytes() == b"before"
    assert list(file.parent.iterdir()) == [file]


def test_nobody_else_reads_what_is_exported(file):
    with open_cache(Engine()) as cache:
        cache.export_chunks(ALL, file)

    assert file.stat().st_mode & 0o077 == 0


def test_an_export_replaces_nothing_but_a_file(file):
    os.mkfifo(file)
    with open_cache(Engine()) as cache:
        for taken in (file, file.parent):
            with pytest.raises((FileExistsError, IsADirectoryError), match=str(taken)):
                cache.export_chunks(ALL, taken)

    assert file.is_fifo()


def test_an_export_to_no_folder_names_the_file(file):
    missing = file.parent / "missing" / "kv.chunks"
    with open_cache(Engine()) as cache, pytest.raises(FileNotFoundError) as caught:
        cache.export_chunks(ALL, missing)

    assert caught.value.filename == str(missing)


def test_an_export_to_a_full_disk_leaves_nothing(file):
    engine = Engine()
    with open_cache(engine) as cache:
        store(cache, engine, prompt(1, 40))

        with files_limited_to(5000), pytest.raises(OSError, match="too large"):
            cache.export_chunks(ALL, file)

    assert list(file.parent.iterdir()) == []


def test_an_export_of_nothing_is_imported(file):
    with open_cache(Engine()) as cache:
        nothing = cache.export_chunks(ALL, file)

        assert cache.import_chunks(file) == nothing == Transplanted(0, 0, 0, 0)


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_cache import Engine, open_cache, prompt
from test_transplant import ALL, store
engine = Engine()
file = Path(sys.argv[1])
with open_cache(engine) as cache:
    for seed in range(1, 6):
        store(cache, engine, prompt(seed, 64))
    def tell(done, total):
        if done == int(sys.argv[2]):
            print("there", flush=True)
            sys.stdin.read()
    cache.export_chunks(ALL, file, progress=tell)
"""


@pytest.mark.parametrize("at", [1, 20])
def test_kill_in_the_middle_leaves_the_file_before(file, at):
    file.write_bytes(b"before")
    kill_once_there(KILLED, file, str(at))

    assert file.read_bytes() == b"before"


def test_what_a_killed_export_left_goes_with_the_next_one(file):
    kill_once_there(KILLED, file, "20")
    beside = file.with_name(f".{file.name}.1.0badcafe.draft")  # of another file
    beside.touch()
    assert len(list(file.parent.iterdir())) == 2

    with open_cache(Engine()) as cache:
        cache.export_chunks(ALL, file)

    assert set(file.parent.iterdir()) == {file, beside}


def test_two_exports_to_one_file_do_not_disturb_each_other(file):
    form = StoredForm(bytes(16), CHUNK, 1)
    tokens = np.zeros(1, np.uint32)
    with ChunkFileWriter(file, form) as first:
        first.add(b"1", tokens, parent=-1, namespace=bytes(16), time=1)
        with ChunkFileWriter(file, form) as second:
            second.add(b"2", tokens, parent=-1, namespace=bytes(16), time=1)
            second.commit()
        with ChunkFile(file) as written:
            assert written.payload(0) == b"2"
        first.commit()

    with ChunkFile(file) as written:
        assert written.payload(0) == b"1"
    assert list(file.parent.iterdir()) == [file]


def test_each_rank_has_a_file_and_all_keep_the_same(tmp_path, file):
    tokens = prompt(1, 3 * CHUNK + 5)

    def export(group: ThreadGroup) -> np.ndarray:
        engine = Engine(seed=group.rank)
        with open_rank(group, engine, tmp_path / "a") as cache:
            cache.store(tokens, slots(5, len(tokens)))
            assert cache.export_chunks(ALL, file).num_chunks == 4
        return engine.rows(slots(5, len(tokens)))

    def take_in(group: ThreadGroup, folder: str) -> np.ndarray:
        engine = Engine(seed=7)
        with open_rank(group, engine, tmp_path / folder) as cache:
            cache.import_chunks(file)
            with cache.acquire(tokens) as handle:
                num_tokens = handle.num_memory_tokens
                cache.load(handle, slots(9, num_tokens))
                while cache.planner.pending_ids:
                    cache.tick()
        return engine.rows(slots(9, num_tokens))

    exported = on_all_ranks(export)
    assert all(map(np.array_equal, on_all_ranks(partial(take_in, folder="b")), exported))

    spoilt = bytearray(file.with_name("kv.chunks.rank1").read_bytes())
    spoilt[8 + 2 * CHUNK * TOKEN_BYTES] ^= 1  # in the third chunk of one rank's file
    file.with_name("kv.chunks.rank1").write_bytes(spoilt)
    assert [rows.shape[1] for rows in on_all_ranks(partial(take_in, folder="c"))] == [2 * CHUNK] * 2
