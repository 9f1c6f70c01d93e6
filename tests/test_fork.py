"""A process that forks: the child has neither its threads nor a right to its files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, os, sys
from pathlib import Path
import numpy as np
from test_cache import Engine, open_cache, prompt, slots
from radixkv.status import find_servers, pid_of

engine = Engine()
cache = open_cache(engine, Path(sys.argv[1]))
index = cache.planner.index
index.index_runs(min_length=8)
assert cache.store(prompt(1, 40), slots(0, 40)).wait()
cache.settle()
index.pin(prompt(1, 40), "parent")

child = os.fork()
if child == 0:
    if sys.argv[2] == "close":
        cache.close()
    elif sys.argv[2] == "collect":
        del cache, index
        gc.collect()
    sys.exit(0)  # as programs end, finalizers and all
assert os.waitpid(child, 0)[1] == 0

assert any(pid_of(path) == os.getpid() for path in find_servers())
assert cache.store(prompt(2, 40), slots(40, 40)).wait()
cache.close()
with open_cache(engine, Path(sys.argv[1])) as cache:
    assert [mark.pins for mark in cache.planner.index.marks()] == [{"parent": None}]
    assert cache.fetch(prompt(1, 40)) == cache.fetch(prompt(2, 40)) == 40
"""


@pytest.mark.long  # a process of its own
@pytest.mark.parametrize("ending", ["exit", "close", "collect"])
def test_a_fork_ends_without_a_trace_in_its_parent(tmp_path, ending):
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "disk", ending],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[1],
    )
