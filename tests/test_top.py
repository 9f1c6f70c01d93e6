"""`radixkv top`: a look at a cache in another process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from radixkv import RadixIndex
from radixkv.cli import main
from radixkv.replay import Setup
from radixkv.status import StatusServer, ask, find_servers, folder, pid_of
from radixkv.subtrees import largest_subtrees
from radixkv.watch import read_status

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
import numpy as np
from radixkv import CacheConfig, KVCache, describe_arrays

kv = [np.zeros((4096, 2, 64), np.float16) for _ in range(4)]
layout, memory = describe_arrays(kv)
with KVCache(layout, CacheConfig(memory_size_bytes=16 << 20), engine=memory) as cache:
    prompt = np.arange(1000, 1640, dtype=np.uint32)
    slots = np.arange(len(prompt))
    assert cache.store(prompt, slots).wait()
    print("ready", flush=True)
    for line in sys.stdin:
        with cache.acquire(prompt) as handle:
            cache.load(handle, slots).wait()
        print("loaded", flush=True)
"""


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A short name: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr("tempfile.tempdir", name)
        yield name


@pytest.fixture
def running(own_folder: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": own_folder}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_top_shows_what_a_running_cache_keeps(running):
    shown = CliRunner().invoke(main, ["top", "--once"]).output

    assert f"process {running.pid}" in shown
    assert "10 chunks, 640 tokens" in shown
    assert "1000 1001 1002" in shown
    assert "100.0%" in shown
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("stored")] == ["640"]


def test_what_moved_since_the_last_look_is_told(running):
    (path,) = find_servers()
    before = ask(path)
    running.stdin.write("load\n")
    running.stdin.flush()
    assert running.stdout.readline() == "loaded\n"

    after = ask(path)

    assert after["counters"]["loaded"] - before["counters"]["loaded"] == 640
    assert after["time_s"] > before["time_s"]


def test_a_cache_that_ended_leaves_nothing_behind(running):
    (path,) = find_servers()
    assert pid_of(path) == running.pid

    running.stdin.close()
    running.wait(30)

    assert not path.exists()
    result = CliRunner().invoke(main, ["top", "--once"])
    assert result.exit_code == 1
    assert "no cache of this user answers" in result.output


def test_what_a_killed_process_left_is_not_taken_for_a_cache(running):
    (path,) = find_servers()
    left = [path.with_name(f"{pid}-0badcafe.sock") for pid in (1, running.pid)]
    for one in left:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(one))

    assert find_servers() == [path]
    assert not any(one.exists() for one in left)


def test_a_stopped_cache_is_found_however_many_have_asked_it(running):
    (path,) = find_servers()
    stopped = path.with_name(f"{running.pid}-0badcafe.sock")
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as asker:
        silent.bind(str(stopped))
        silent.listen(0)
        asker.connect(str(stopped))
        try:
            assert find_servers() == sorted([path, stopped])
        finally:
            stopped.unlink()


def test_a_cache_that_starts_removes_what_killed_ones_left(running):
    (path,) = find_servers()
    left = path.with_name(f"{running.pid}-0badcafe.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))

    server = StatusServer(dict)
    try:
        assert sorted(folder().iterdir()) == sorted([path, server.path])
    finally:
        server.close()


def test_the_one_to_look_at_is_named_where_there_are_several(running):
    server = StatusServer(dict)
    try:
        result = CliRunner().invoke(main, ["top", "--once"])
        chosen = CliRunner().invoke(main, ["top", "--once", "--pid", str(running.pid)])
    finally:
        server.close()

    assert "choose one by --pid" in result.output
    assert str(running.pid) in result.output
    assert f"process {running.pid}" in chosen.output


def test_all_caches_of_a_process_are_shown_as_they_come_and_go(own_folder):
    kept = read_status(Setup(memory_tokens=640).make_planner(), seed=1)
    with (
        closing(StatusServer(lambda: kept | {"policy": "lfu"})),
        closing(StatusServer(lambda: kept)) as second,
        closing(StatusServer(dict)),  # its planner is gone
    ):
        both = CliRunner().invoke(main, ["top", "--once"])
        second.close()
        one = CliRunner().invoke(main, ["top", "--once"])

    assert both.output.count(f"process {os.getpid()}") == 2
    assert one.output.count(f"process {os.getpid()}") == 1
    assert "policy lfu" in one.output


def test_a_process_whose_cache_has_gone_is_named(own_folder):
    with closing(StatusServer(dict)):
        result = CliRunner().invoke(main, ["top", "--once"])

    assert result.exit_code == 1
    assert f"process {os.getpid()} has no cache any more" in result.output


def test_nobody_else_can_ask():
    server = StatusServer(dict)
    try:
        assert folder().stat().st_mode & 0o777 == 0o700
        assert ask(server.path) == {}
    finally:
        server.close()
    folder().chmod(0o755)

    with pytest.raises(PermissionError, match="only this user"):
        StatusServer(dict)


# --- Subtrees ---


def test_shares_are_those_of_the_tree():
    index = RadixIndex(chunk_tokens=4)
    system = np.arange(100, 200)
    number = 1000
    for document, repeats in ((1, 60), (2, 20)):
        prefix = np.concatenate([system, np.full(100, document)])
        for _ in range(repeats):
            number += 40
            index.insert(np.concatenate([prefix, np.arange(number, number + 40)]), time=number)
    other = np.arange(5000, 5400)
    index.insert(other, index.namespace(b"another model..."), time=1)

    trees = largest_subtrees(index, seed=1)

    kept = index.stats().chunks
    assert [(one.level, one.end) for one in trees] == [(0, 100), (1, 200), (1, 200), (0, 400)]
    assert [one.head[0] for one in trees] == [100, 1, 2, 5000]
    assert trees[0].share == pytest.approx((25 + 2 * 25 + 80 * 10) / kept, abs=0.05)
    assert trees[1].share == pytest.approx((25 + 600) / kept, abs=0.05)
    assert trees[3].share == pytest.approx(100 / kept, abs=0.05)
    assert all(one.memory_share == 1 for one in trees)


def test_an_empty_index_has_no_subtrees():
    assert largest_subtrees(RadixIndex(), seed=1) == []
