"""`radixkv export` and `radixkv import`: a disk tier's chunks, taken to another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_cache import CHUNK, MIB, Engine, open_cache, prompt, slots
from test_ranks import ThreadGroup, on_all_ranks, open_rank
from test_transplant import load, store

from radixkv.cli import main, transplant

PROMPTS = [prompt(seed, 3 * CHUNK + 5) for seed in (1, 2)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A disk tier with two prompts, which no process uses."""
    engine = Engine()
    with open_cache(engine, tmp_path / "here") as cache:
        for tokens in PROMPTS:
            store(cache, engine, tokens)
        cache.settle()
    return tmp_path / "here"


def test_what_was_exported_is_in_the_other_folder(tmp_path, folder):
    file, there = tmp_path / "kv.chunks", tmp_path / "there"
    size = "64MiB"  # as open_cache has it

    assert done("export", folder, file)["num_chunks"] == 8
    assert done("import", file, there, "--size", size)["num_chunks"] == 8
    assert done("import", file, there)["num_left"] == 8  # all there already

    engine = Engine()
    with open_cache(engine, there) as cache:
        for tokens in PROMPTS:
            assert cache.fetch(tokens) == len(tokens)
            found = load(cache, engine, tokens)
            assert np.array_equal(found, Engine().rows((tokens % 512).astype(np.int64)))


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transplant, "_LEAST_MEMORY_BYTES", MIB)


def export_long_prompt(tmp_path: Path) -> Path:
    """One of 30 chunks of 384 KiB."""
    engine = Engine(row=4096)
    with open_cache(engine, tmp_path / "here") as cache:
        store(cache, engine, prompt(1, 30 * CHUNK))
        cache.settle()
    assert done("export", tmp_path / "here", tmp_path / "kv.chunks")["num_chunks"] == 30
    return tmp_path / "kv.chunks"


def test_a_prompt_comes_whole_however_long(tmp_path, little_memory):
    file = export_long_prompt(tmp_path)

    assert done("import", file, tmp_path / "there", "--size", "64MiB")["num_chunks"] == 30


def test_a_prompt_longer_than_free_memory_is_said_to_be_cut(tmp_path, little_memory, monkeypatch):
    file = export_long_prompt(tmp_path)
    monkeypatch.setattr(transplant, "available_memory_bytes", lambda: 0)

    result = run("import", file, tmp_path / "there", "--size", "64MiB")

    assert result.exit_code == 0
    assert "imported 16 chunks" in result.stdout
    assert f"prompts of more than {16 * CHUNK:,} tokens were cut there" in result.stderr


def test_a_prefix_and_what_begins_with_it_can_be_exported_alone(tmp_path, folder):
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(PROMPTS[0][:10].tolist()))

    assert done("export", folder, tmp_path / "kv", "--prefix-tokens", f"@{ids}")["num_chunks"] == 4
    assert done("export", folder, tmp_path / "kv", "--prefix-tokens", "7,8")["num_chunks"] == 0


@pytest.mark.parametrize("ids", ["", "abc", "1.5", "-1", "1,,2", "99999999999", "@absent", "@"])
def test_what_is_no_prefix_is_not_exported_as_another(tmp_path, folder, ids):
    result = run("export", folder, tmp_path / "kv", "--prefix-tokens", ids)

    assert "expected token ids such as 1,2,3" in result.output
    assert not (tmp_path / "kv").exists()


def test_it_runs_beside_the_process_that_uses_the_folder_but_an_import_does_not(tmp_path, folder):
    file = tmp_path / "kv.chunks"
    with open_cache(Engine(), folder):
        assert done("export", folder, file)["num_chunks"] == 8
        assert "is used by process" in run("import", file, folder).output


def test_what_a_folder_cannot_be_told_from_it_is_asked_for(tmp_path, folder):
    file = tmp_path / "kv.chunks"
    run("export", folder, file)

    assert "--size" in run("import", file, tmp_path / "there").output
    assert "no such namespace" in run("export", folder, file, "--namespace", "zz").output
    assert "beginning of a digest" in run("export", folder, file, "--namespace", "").output
    file.write_bytes(file.read_bytes()[:-9])
    assert "it was cut" in run("import", file, tmp_path / "there", "--size", "64MiB").output
    assert not (tmp_path / "there").exists()


def test_ranks_have_a_file_each(tmp_path):
    tokens = PROMPTS[0]

    def keep(group: ThreadGroup) -> None:
        engine = Engine(seed=group.rank)
        with open_rank(group, engine, tmp_path / "here") as cache:
            cache.store(tokens, slots(5, len(tokens)))
            while cache.planner.pending_ids:
                cache.tick()

    def count(group: ThreadGroup) -> int:
        with open_rank(group, Engine(), tmp_path / "there") as cache:
            return cache.num_restored_chunks

    on_all_ranks(keep)
    file = tmp_path / "kv.chunks"

    assert done("export", tmp_path / "here", file)["num_chunks"] == 4
    assert done("import", file, tmp_path / "there", "--size", "128MiB")["num_chunks"] == 4
    assert on_all_ranks(count) == [4, 4]
