"""Saving an index: what comes back, and what a torn or damaged file may do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from files import files_limited_to
from index_stories import CHUNK_BYTES, length, make_index, spill_all, text_of, tokens

from radixkv import IndexFormatError, RadixIndex

OTHER = b"another model..."
DIGESTS = (bytes(16), OTHER)

State = tuple[object, ...]


def state_of(index: RadixIndex) -> State:
    """All that is saved of an index, told without ids."""
    chunks = []
    for digest in DIGESTS:
        subtree = index.walk(tokens(""), index.namespace(digest))
        paths: list[str] = []
        for at in range(len(subtree)):
            parent = int(subtree.parent_index[at])
            path = (paths[parent] if parent >= 0 else "") + text_of(subtree.tokens_of(at))
            paths.append(path)
            ref = subtree.chunks[at]
            place = (int(ref["memory_offset"]), int(ref["disk_offset"]))
            recency = (int(subtree.time[at]), int(subtree.num_uses[at]))
            chunks.append((digest, path, place, recency))
    marks = [
        (m.digest, text_of(m.tokens), m.priority, m.time_to_live, m.memory_quota_bytes, m.pins)
        for m in index.marks()
    ]
    stats = index.stats()
    counts = (stats.dropped_chunks, stats.memory.evicted_chunks, stats.disk.evicted_chunks)
    return (sorted(chunks), marks, counts)


def fill(index: RadixIndex) -> None:
    index.insert(tokens("aabbccd"), time=1)
    index.insert(tokens("aabbee"), time=2)
    index.insert(tokens("xxyy"), index.namespace(OTHER), time=3)
    index.acquire(tokens("aabb"), time=4).close()
    spill_all(index)
    index.evict("memory", CHUNK_BYTES)
    index.pin(tokens("aab"), "router", until=9)
    index.pin(tokens("aab"), "operator")
    index.set_priority(tokens("x"), -3, index.namespace(OTHER))
    index.set_quota(tokens(""), "memory", 50 * CHUNK_BYTES)
    index.set_time_to_live(tokens("not kept"), 7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "index.radixkv"


def test_what_is_saved_comes_back(file):
    index = make_index(disk_chunks=50)
    fill(index)

    index.save(file)
    opened = RadixIndex.open(file)

    opened.check_invariants()
    assert state_of(opened) == state_of(index)
    assert opened.chunk_tokens == index.chunk_tokens
    assert opened.stats().memory.total_units == index.stats().memory.total_units
    assert opened.stats().disk.used_units == index.stats().disk.used_units


def test_what_comes_back_leaves_in_the_same_order(file):
    index = make_index()
    for time, text in enumerate(("aa", "bb", "cc", "aadd"), start=1):
        index.insert(tokens(text), time=time)
    index.acquire(tokens("bb"), time=9).close()
    index.save(file)
    opened = RadixIndex.open(file)

    opened.evict("memory", 2 * CHUNK_BYTES)

    assert [length(opened, text) for text in ("bb", "cc", "aadd")] == [2, 0, 2]


def test_what_is_not_ready_or_was_dropped_is_not_saved(file):
    index = make_index()
    index.insert(tokens("aa"))
    index.insert(tokens("bb"))
    index.reserve(tokens("cc"), time=1)
    handle = index.acquire(tokens("aa"))
    index.drop(tokens("aa"))

    index.save(file)

    handle.close()
    opened = RadixIndex.open(file)
    assert [length(opened, text) for text in ("aa", "bb", "cc")] == [0, 2, 0]
    assert opened.stats().chunks == 1


def test_an_index_without_end_comes_back_without_end(file):
    index = RadixIndex()
    index.insert(np.arange(1000, dtype=np.uint32))
    index.save(file)

    opened = RadixIndex.open(file)

    assert opened.match(np.arange(1000, dtype=np.uint32)).num_tokens == 1000
    assert opened.stats().memory.total_units == index.stats().memory.total_units


def test_a_file_that_cannot_be_written_leaves_the_one_before(file, tmp_path):
    index = make_index()
    index.insert(tokens("aa"))
    index.save(file)
    before = file.read_bytes()
    (tmp_path / "index.radixkv.draft").mkdir()

    with pytest.raises(OSError, match=r"index\.radixkv\.draft"):
        index.save(file)
    with pytest.raises(OSError, match="no such folder"):
        index.save(tmp_path / "no such folder" / "index")

    assert file.read_bytes() == before


def test_a_journal_stays_where_it_was_however_the_process_moves(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    index = make_index()
    with index.journal(file.name) as journal:
        monkeypatch.chdir("/")
        index.insert(tokens("aabb"))
        journal.flush()
        journal.compact()

    assert length(RadixIndex.open(file), "aabb") == 4
    assert os.listdir(file.parent) == [file.name]


def test_nothing_but_a_file_is_replaced(file):
    os.mkfifo(file)
    index = make_index()

    for save in (index.save, index.journal):
        with pytest.raises(FileExistsError, match=str(file)):
            save(file)
        with pytest.raises(IsADirectoryError):
            save(file.parent)

    assert file.is_fifo()


def test_a_file_of_something_else_is_refused(file):
    file.write_bytes(bytes(500))
    with pytest.raises(IndexFormatError, match="not a saved index"):
        RadixIndex.open(file)
    file.write_bytes(b"")
    with pytest.raises(IndexFormatError, match="too short"):
        RadixIndex.open(file)
    with pytest.raises(FileNotFoundError):
        RadixIndex.open(file.with_name("none"))


# --- Journals ---


def changes(index: RadixIndex) -> list[Callable[[], object]]:
    """What may happen to an index, a step each."""
    other = index.namespace(OTHER)
    handles = []

    def hold() -> None:
        handles.append(index.acquire(tokens("ffgg"), time=30))

    return [
        lambda: index.insert(tokens("aabbccd"), time=10),
        lambda: index.insert(tokens("ffgg"), other, time=11),
        lambda: index.insert(tokens("ffgg"), time=12),
        lambda: index.pin(tokens("ff"), "router", until=25),
        lambda: spill_all(index),
        lambda: index.acquire(tokens("aabb"), time=13).close(),
        lambda: index.evict("memory", 2 * CHUNK_BYTES),
        lambda: index.set_quota(tokens("aa"), "memory", 4 * CHUNK_BYTES),
        lambda: index.set_priority(tokens("kk"), 4, other),
        lambda: index.insert(tokens("aabbhh"), time=14),
        hold,
        lambda: index.drop(tokens("ff")),
        lambda: index.set_time_to_live(tokens("aa"), 5),
        lambda: index.advance(25),
        lambda: handles.pop().close(),
        lambda: index.set_quota(tokens("aa"), "memory", None),
        lambda: index.insert(tokens("aabbccdd"), time=40),
        lambda: index.evict("disk", CHUNK_BYTES),
    ]


def write_history(file: Path) -> list[tuple[int, State]]:
    """A journal, and how long the file was at each of its states."""
    index = make_index(disk_chunks=50)
    fill(index)
    history = []
    with index.journal(file) as journal:
        history.append((journal.num_bytes, state_of(index)))
        for change in changes(index):
            change()
            journal.flush(sync=False)
            history.append((journal.num_bytes, state_of(index)))
    assert len({size for size, _ in history}) > 15
    return history


def test_a_journal_has_what_came_after_the_snapshot(file):
    history = write_history(file)

    opened = RadixIndex.open(file)

    opened.check_invariants()
    assert state_of(opened) == history[-1][1]


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.long)])
def test_a_file_torn_at_any_byte_is_a_state_of_the_past_or_an_error(file, caplog, step):
    history = write_history(file)
    whole = file.read_bytes()

    for num_bytes in range(0, len(whole), step):
        file.write_bytes(whole[:num_bytes])
        if num_bytes < history[0][0]:
            with pytest.raises(IndexFormatError):
                RadixIndex.open(file)
            continue
        caplog.clear()
        opened = RadixIndex.open(file)

        size = max(known for known, _ in history if known <= num_bytes)
        assert state_of(opened) in [state for known, state in history if known == size]
        assert bool(caplog.records) == (num_bytes > size)
    opened.check_invariants()


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.long)])
def test_a_file_with_any_byte_damaged_is_a_state_of_the_past_or_an_error(file, step):
    history = write_history(file)
    whole = bytearray(file.read_bytes())
    rng = np.random.default_rng(1)

    for at in range(0, len(whole), step):
        damage = int(rng.integers(1, 256))
        whole[at] ^= damage
        file.write_bytes(whole)
        whole[at] ^= damage
        if at < history[0][0]:
            with pytest.raises(IndexFormatError):
                RadixIndex.open(file)
            continue

        size = max(known for known, _ in history if known <= at)
        assert state_of(RadixIndex.open(file)) in [s for known, s in history if known == size]


def test_an_index_has_one_journal_at_a_time(file):
    index = make_index()
    journal = index.journal(file)

    with pytest.raises(ValueError, match="has one already"):
        index.journal(file)
    journal.close()
    journal.close()
    assert journal.is_closed
    with pytest.raises(ValueError, match="was closed"):
        journal.flush()

    index.journal(file).close()


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(file):
    index = make_index()
    num_open = len(os.listdir("/proc/self/fd"))

    with files_limited_to(10), pytest.raises(OSError, match="too large") as caught:
        index.save(file)

    assert caught.value.filename == f"{file}.draft"
    assert list(file.parent.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_a_path_may_have_any_bytes_but_zero(file):
    index = make_index()
    index.insert(tokens("aabb"), time=1)
    path = file.with_name(os.fsdecode(b"caf\xe9"))

    index.save(path)
    with pytest.raises(ValueError, match="path: expected one without a zero byte"):
        index.save(f"{file}\0.other")

    assert state_of(RadixIndex.open(path)) == state_of(index)
    assert not file.exists()


def test_a_journal_that_cannot_begin_leaves_none(file):
    index = make_index()

    with pytest.raises(OSError, match="none"):
        index.journal(file / "none")

    index.journal(file).close()


def test_compacting_keeps_the_state_and_shortens_the_file(file):
    index = make_index()
    with index.journal(file) as journal:
        for time in range(200):
            index.insert(tokens("aabb"), time=time)
            journal.flush(sync=False)
        before = journal.num_bytes
        journal.compact()
        assert journal.num_bytes == journal.num_snapshot_bytes < before
        index.insert(tokens("cc"), time=201)

    assert state_of(RadixIndex.open(file)) == state_of(index)


def test_a_journal_is_flushed_beside_changes_and_matches(file):
    index = make_index(memory_chunks=40)
    journal = index.journal(file)
    has_ended = threading.Event()

    def flush() -> None:
        while not has_ended.is_set():
            journal.flush(sync=False)
            if journal.num_bytes > 4 * journal.num_snapshot_bytes:
                journal.compact()
            index.match(tokens("aabb"))

    flusher = threading.Thread(target=flush)
    flusher.start()
    for time in range(500):
        index.insert(tokens("aabb" + chr(97 + time % 26) * 4), time=time)
    has_ended.set()
    flusher.join()
    journal.close()

    assert state_of(RadixIndex.open(file)) == state_of(index)


# --- Adopting ---


def test_an_index_whose_disk_was_reopened_learns_what_its_chunks_were_worth(file):
    index = make_index(disk_chunks=50)
    fill(index)
    index.save(file)
    opened = make_index(disk_chunks=50)
    opened.namespace(OTHER)
    opened.restore_disk(
        np.array([-1, 0, -1], np.int64),
        np.full(3, 2, np.uint16),
        tokens("aabbzz").astype(np.uint32),
        np.array([0, 16, 32], np.uint32),
        np.full(3, 16, np.uint16),
        np.zeros(3, np.int32),
        [bytes(16)],
        np.ones(3, np.uint64),
    )

    assert opened.adopt(file) == 2

    opened.check_invariants()
    subtree = opened.walk(tokens("aab"))
    assert (subtree.time.tolist(), subtree.num_uses.tolist()) == ([4], [2])
    assert [mark.pins for mark in opened.marks()][:1] == [{"router": 9, "operator": None}]
    assert length(opened, "aabbee") == 4
    assert opened.stats().memory.evicted_chunks == index.stats().memory.evicted_chunks == 2


# --- Taking a subtree elsewhere ---


def test_a_subtree_is_planted_in_another_index():
    index = make_index()
    for text in ("aabbccd", "aabbee", "aaff", "gg"):
        index.insert(tokens(text))
    other = make_index(chunk_tokens=3)

    subtree = index.walk(tokens("aab"), with_path=True)
    added = other.plant(subtree, time=5)

    assert added == 4
    assert [length(other, text) for text in ("aabbccd", "aabbee", "aaff", "gg")] == [7, 6, 2, 0]
    with pytest.raises(ValueError, match="with its path"):
        other.plant(index.walk(tokens("aab")), time=5)


def test_a_walk_gives_parents_before_their_children():
    index = make_index()
    index.insert(tokens("aabbcc"), time=1)
    index.insert(tokens("aabbdd"), time=2)

    subtree = index.walk(tokens("aabb"))

    assert len(subtree) == 3
    assert subtree.parent_index.tolist() == [-1, 0, 0]
    assert text_of(subtree.tokens_of(0)) == "bb"
    assert len(index.walk(tokens("zz"))) == 0
