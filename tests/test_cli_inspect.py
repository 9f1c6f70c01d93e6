"""`radixkv inspect` on a folder that an executor filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from dataplane import FakeEngine, chunk, path_of_chunks, slots_from, spill, store

from radixkv.cli import main
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions

LAYOUT = KVLayout(num_layers=2, num_kv=2, row_bytes=256, dtype="float32")
CHUNK_TOKENS = 16


def open_executor(folder: Path) -> Executor:
    disk = DiskOptions(path=folder, capacity_bytes=4 << 20)
    executor = Executor(LAYOUT, chunk_tokens=CHUNK_TOKENS, memory_bytes=1 << 20, disk=disk)
    executor.attach(FakeEngine(LAYOUT, num_slots=64).memory())
    return executor


@pytest.fixture
def folder(tmp_path):
    """A path of two full chunks and, apart from it, a tail of five tokens."""
    with open_executor(tmp_path / "kv") as executor:
        path = path_of_chunks(executor, [0, 1])
        tail = chunk(executor, 2, num_tokens=5)
        store(executor, path, slots_from(0, 2 * CHUNK_TOKENS))
        store(executor, tail, slots_from(0, 5))
        spill(executor, path, sequence=1)
        spill(executor, tail, sequence=3, namespace=b"n" * 16)
    return tmp_path / "kv"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_it_counts_chunks_tokens_and_namespaces(folder):
    report = json.loads(run(folder, "--json").output)

    assert (report["num_chunks"], report["num_tails"]) == (3, 1)
    assert report["num_tokens"] == 2 * CHUNK_TOKENS + 5
    assert report["longest_path_tokens"] == 2 * CHUNK_TOKENS
    assert report["in_use_by"] is None
    assert {n["digest"]: n["num_tokens"] for n in report["namespaces"]} == {
        bytes(range(16)).hex(): 2 * CHUNK_TOKENS,
        (b"n" * 16).hex(): 5,
    }


def test_it_runs_beside_the_process_that_uses_the_folder(folder):
    with open_executor(folder):
        report = json.loads(run(folder, "--json").output)

    assert report["num_chunks"] == 3
    assert report["in_use_by"] is not None


def test_it_prints_a_table(folder):
    output = run(folder, "--verify").output

    assert "3 of 16 tokens, 1 not full" in output
    assert "all as written" in output


def test_a_flipped_bit_in_a_payload_is_found(folder):
    (file,) = folder.glob("*.radixkv")
    pattern = FakeEngine(LAYOUT, num_slots=64).token_bytes(slots_from(0, CHUNK_TOKENS))
    content = bytearray(file.read_bytes())
    content[content.index(pattern) + 100] ^= 1
    file.write_bytes(content)

    result = run(folder, "--verify")

    assert result.exit_code == 1
    assert "1 damaged, never served" in result.output


def test_a_folder_without_a_tier_is_named(tmp_path):
    result = run(tmp_path)

    assert result.exit_code == 1
    assert f"no radixkv files in {tmp_path}" in result.output


def test_a_folder_that_is_not_there_is_named(tmp_path):
    result = run(tmp_path / "gone")

    assert result.exit_code == 2
    assert "does not exist" in result.output
