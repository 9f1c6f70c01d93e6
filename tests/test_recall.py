"""A restart brings back recency and marks, as far as they were written down whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from killed_script import kill_once_there
from test_cache import CHUNK, Engine, open_cache, prompt
from test_ranks import ThreadGroup, on_all_ranks, open_rank, tick_until_idle
from test_transplant import store

from radixkv import KVCache
from radixkv.recall import index_file

PROMPTS = [prompt(seed, 2 * CHUNK) for seed in (1, 2, 3)]


def fill(cache: KVCache, engine: Engine) -> None:
    """Three prompts on disk, of which the first was used last, and a pinned subtree."""
    for tokens in PROMPTS:
        store(cache, engine, tokens)
    cache.settle()
    cache.acquire(PROMPTS[0]).close()
    cache.planner.index.pin(PROMPTS[1][:5], "operator", 1, until=99)
    cache.planner.index.set_priority(PROMPTS[2], 4, 1)


def known(cache: KVCache) -> tuple[object, ...]:
    """What is to survive: the order of last use of the prompts, their uses, and the marks."""
    index = cache.planner.index
    stats = [index.subtree_stats(tokens, 1) for tokens in PROMPTS]
    order = sorted(range(len(PROMPTS)), key=lambda number: stats[number].last_use)
    marks = [(mark.tokens.tolist(), mark.priority, mark.pins) for mark in index.marks()]
    return order, [one.hits for one in stats], marks


EXPECTED = (
    [1, 2, 0],
    [1, 0, 0],
    [(PROMPTS[1][:5].tolist(), None, {"operator": 99}), (PROMPTS[2].tolist(), 4, {})],
)


def test_a_restart_brings_back_recency_uses_and_marks(tmp_path):
    engine = Engine()
    with open_cache(engine, tmp_path / "disk") as cache:
        fill(cache, engine)
        admission = cache.planner.new_admission()

    for _ in range(2):  # and so does the one after it
        with open_cache(engine, tmp_path / "disk") as cache:
            assert known(cache) == EXPECTED
            assert cache.num_restored_chunks == 6
            assert cache.planner.counters.recalls_failed == 0
            assert cache.planner.new_admission() in (admission, admission + 1)
            cache.planner.index.check_invariants()


KILLED = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from test_cache import Engine, open_cache, prompt
from test_recall import fill, store
from radixkv import keep_index
engine = Engine()
with open_cache(engine, Path(sys.argv[1]), disk_durable="none") as cache:
    fill(cache, engine)
    cache.keeper.flush()
    store(cache, engine, prompt(4, 32))  # too late for the journal, unless its thread was quick
    cache.settle()
    print("there", flush=True)
    sys.stdin.read()
"""


def test_kill_minus_nine_loses_no_more_than_the_last_moments(tmp_path):
    kill_once_there(KILLED, tmp_path / "disk")

    with open_cache(Engine(), tmp_path / "disk") as cache:
        assert known(cache) == EXPECTED
        late = cache.planner.index.subtree_stats(prompt(4, 32), 1)
        assert late.disk_chunks == 1
        assert late.last_use >= cache.planner.index.subtree_stats(PROMPTS[0], 1).last_use


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign", "folder"])
def test_a_bad_journal_is_counted_and_costs_nothing_else(tmp_path, damage):
    engine = Engine()
    with open_cache(engine, tmp_path / "disk") as cache:
        fill(cache, engine)
    file = index_file(tmp_path / "disk")
    whole = bytearray(file.read_bytes())
    if damage == "flipped":
        whole[100] ^= 1
        file.write_bytes(whole)
    elif damage == "cut":
        file.write_bytes(whole[:100])
    elif damage == "foreign":
        file.write_bytes(b"something else" * 100)
    else:
        file.unlink()
        file.mkdir()

    with open_cache(engine, tmp_path / "disk") as cache:
        assert cache.planner.counters.recalls_failed == 1
        assert cache.num_restored_chunks == 6
        assert known(cache)[2] == []
        assert (cache.keeper is None) == (damage == "folder")


def test_a_torn_end_brings_back_what_was_before(tmp_path):
    engine = Engine()
    with open_cache(engine, tmp_path / "disk") as cache:
        fill(cache, engine)
        cache.keeper.flush()
        cache.planner.index.unpin_all("operator")
    file = index_file(tmp_path / "disk")
    file.write_bytes(file.read_bytes()[:-3])

    with open_cache(engine, tmp_path / "disk") as cache:
        assert known(cache) == EXPECTED
        assert cache.planner.counters.recalls_failed == 0


def test_without_a_disk_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_cache(Engine()) as cache:
        assert cache.keeper is None

    assert list(tmp_path.iterdir()) == []


def serve(group: ThreadGroup, folder: Path) -> tuple[int, int, int]:
    """Keeps a prompt more; gives what the rank's index was at first and how often it was lost."""
    engine = Engine(seed=group.rank)
    with open_rank(group, engine, folder) as cache:
        first = cache.planner.index.state_hash()
        tokens = PROMPTS[cache.num_restored_chunks // 2]
        cache.store(tokens, (tokens % 512).astype(np.int64))
        cache.planner.index.pin(tokens, "all", 1)
        tick_until_idle(cache, group)
        num_marks = len(cache.planner.index.marks())
        return first, cache.planner.counters.recalls_failed, num_marks


def test_ranks_recall_the_same(tmp_path):
    assert [marks for *_, marks in on_all_ranks(lambda group: serve(group, tmp_path))] == [1, 1]
    one, other = on_all_ranks(lambda group: serve(group, tmp_path))

    assert one == other
    assert one[1:] == (0, 2)


def test_ranks_that_read_different_journals_take_in_none(tmp_path):
    def on_hosts_of_their_own(group: ThreadGroup) -> tuple[int, int, int]:
        return serve(group, tmp_path / str(group.rank))

    on_all_ranks(on_hosts_of_their_own)
    one, other = on_all_ranks(on_hosts_of_their_own)

    assert one == other
    assert one[1:] == (1, 1)
