"""The audit of KV that runs inside SGLang in the tests of the engine, here without an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from radixkv_sglang_cpu.kv_audit import MemoryAudit
from radixkv_sglang_cpu.kv_reference import TOLERANCE, Comparison, PathKeys, Reference
from test_cache import CHUNK, NUM_SLOTS, Engine, open_cache

from radixkv import KVCache, describe_arrays

TOKENS = list(range(100, 100 + 3 * CHUNK))
FLOATS = 8


class FloatEngine(Engine):
    """KV memory as a model in float32 has it."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.arrays = [random.standard_normal((NUM_SLOTS, FLOATS), np.float32) for _ in range(4)]
        self.layout, self.memory = describe_arrays(self.arrays)


@pytest.fixture
def engine() -> FloatEngine:
    return FloatEngine()


@pytest.fixture
def slots() -> np.ndarray:
    return np.arange(len(TOKENS), dtype=np.int64)


@pytest.fixture
def comparison(engine: FloatEngine, slots: np.ndarray, tmp_path: Path) -> Comparison:
    """Its reference holds what the engine has now, written in two parts that overlap."""
    keys = PathKeys().of("", TOKENS)
    rows = engine.rows(slots).swapaxes(0, 1)
    writer = Reference(tmp_path)
    writer.add(keys[:20], rows[:20])
    writer.add(keys[10:], rows[10:])
    return Comparison(Reference(tmp_path))


def audited_store(
    engine: FloatEngine, comparison: Comparison, slots: np.ndarray, disk: Path
) -> KVCache:
    cache = open_cache(engine, disk)
    audit = MemoryAudit(cache, comparison)
    ticket = cache.store(TOKENS_ARRAY, slots, cache.namespace_id(cache.namespace))
    assert ticket is not None
    assert ticket.wait()
    assert cache.settle()
    audit.compare_kept()
    return cache


TOKENS_ARRAY = np.array(TOKENS, np.uint32)


def test_right_rows_are_right_wherever_they_are_found(engine, slots, comparison, tmp_path):
    cache = audited_store(engine, comparison, slots, tmp_path / "disk")
    cache.clear()
    assert cache.fetch(TOKENS_ARRAY, cache.namespace_id(cache.namespace)) == len(TOKENS)
    cache.close()

    found = comparison.describe()

    assert found["tokens"] == {"stored": 48, "kept": 48, "fetched": 48}
    assert not any(found["wrong"].values())
    assert found["told"] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row + 10 * TOLERANCE * np.linalg.norm(row),
        lambda row: np.full_like(row, np.nan),
        lambda row: np.roll(row, 1),
    ],
)
def test_one_wrong_row_is_found_and_told(
    spoil: Callable[[np.ndarray], np.ndarray],
    engine: FloatEngine,
    slots: np.ndarray,
    comparison: Comparison,
    tmp_path: Path,
):
    engine.arrays[2][slots[37]] = spoil(engine.arrays[2][slots[37]])

    audited_store(engine, comparison, slots, tmp_path / "disk").close()

    found = comparison.describe()
    assert found["wrong"] == {"stored": 1, "kept": 1}
    assert "stored: chunk 2 of 16 tokens: positions [37], rows [2]" in found["told"]


def test_rounding_is_not_wrong(engine, slots, comparison, tmp_path):
    for array in engine.arrays:
        array *= np.float32(1 + TOLERANCE / 10)

    audited_store(engine, comparison, slots, tmp_path / "disk").close()

    found = comparison.describe()
    assert not any(found["wrong"].values())
    assert TOLERANCE / 20 < found["largest"]["stored"] < TOLERANCE


def test_what_the_reference_lacks_is_counted(comparison):
    keys = PathKeys().of("", [*TOKENS[:-1], 7, 8])

    comparison.compare("here", keys, np.zeros((len(keys), 4, FLOATS), np.float32), "nowhere")

    assert comparison.describe()["unknown"] == {"here": 2}


def test_a_key_names_all_tokens_up_to_its_own():
    keys = PathKeys()
    first = keys.of("a", [1, 2, 3])

    assert keys.of("a", [1, 2, 3, 4])[:3] == first
    assert keys.of("b", [9, 2, 3])[1:] != first[1:]
    assert keys.of("a", [1, 5, 3])[0] == first[0]
    assert keys.of("a", [1, 5, 3])[2] != first[2]
