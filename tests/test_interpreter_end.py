"""A program that ends while its daemon threads are inside radixkv, without the GIL."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, time
import numpy as np
from radixkv import CacheConfig, KVCache, RadixIndex, describe_arrays

layout, memory = describe_arrays([np.zeros((64, 8), np.float32)] * 2)
cache = KVCache(layout, CacheConfig(memory_size_bytes=1 << 20, metrics=False), engine=memory)
index, tokens = RadixIndex(), np.arange(1 << 20)
index.insert(tokens)
index.index_runs()

def again_and_again(call):
    while True:
        call()

for call in (
    lambda: cache.wait_for_completion(10),
    lambda: index.match(tokens),
    lambda: index.find_runs(tokens[:70000]),
    lambda: index.save(sys.argv[1]),
):
    threading.Thread(target=again_and_again, args=(call,), daemon=True).start()
time.sleep(0.2)
sys.exit(7)
"""


@pytest.mark.long  # a process of its own
def test_a_program_ends_with_its_own_code_whatever_its_daemon_threads_do(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "index"], timeout=60, check=False
    )

    assert ended.returncode == 7
