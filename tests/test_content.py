"""Every row of KV that comes back is that of its token, whatever happens between and beside."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from content_machine import CHUNK, Machine

from radixkv import CacheConfig

MIB = 1 << 20
STEPS = 400  # between restarts
RESTARTS = 2

FEW, MANY, VERY_MANY = range(2), range(2, 20), range(20, 400)


def random_config(seed: int, disk: Path) -> CacheConfig:
    """Tiers that are too small for the work, so that both evict."""
    rng = random.Random(seed)
    return CacheConfig(
        chunk_tokens=CHUNK,
        memory_size_bytes=rng.choice([1, 2, 4]) * MIB,
        disk_path=disk if rng.random() < 0.9 else None,
        disk_size_bytes=rng.choice([2, 8]) * MIB,
        disk_durable=rng.choice(["none", "group"]),
        disk_io=rng.choice(["auto", "threads"]),
        prefetch_deadline_s=rng.choice([0.001, 0.01, 1.0]),
        metrics=False,
    )


def work(seed: int, folder: Path) -> Counter[str]:
    machine = Machine(seed, random_config(seed, folder))
    for _ in range(RESTARTS + 1):
        for _ in range(STEPS):
            machine.step()
        machine.restart()
    machine.finish()
    machine.close()
    return machine.did


@pytest.mark.parametrize(
    "seeds",
    [
        FEW,
        pytest.param(MANY, marks=pytest.mark.long),
        pytest.param(VERY_MANY, marks=pytest.mark.soak),
    ],
    ids=["few", "many", "very many"],
)
def test_rows_follow_from_their_prefix(seeds: range, tmp_path: Path) -> None:
    did: Counter[str] = Counter()

    for seed in seeds:
        did += work(seed, tmp_path / str(seed))

    for kind in ("stored", "loaded", "layers read early", "read back"):
        assert did[kind] > 0, kind
