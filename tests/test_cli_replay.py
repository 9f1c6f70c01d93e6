"""`radixkv replay`, on a trace of a few lines."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from radixkv.cli import main


@pytest.fixture
def trace(tmp_path):
    lines = [{"tokens": list(range(start, start + 100))} for start in (0, 1000, 0, 2000, 1000)]
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def test_a_row_for_each_configuration(trace, tmp_path):
    result = run(
        *(trace, "--chunk-tokens", "16", "--memory", "30%", "--memory", "25MiB"),
        *("--disk", "0", "--disk", "200%", "--policy", "lfu", "--csv", tmp_path / "rows.csv"),
    )

    assert result.exit_code == 0, result.output
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["memory"], row["disk"]) for row in rows] == [
        ("30%", "0"),
        ("30%", "200%"),
        ("25MiB", "0"),
        ("25MiB", "200%"),
    ]
    assert {row["policy"] for row in rows} == {"lfu"}
    assert {row["memory_tokens"] for row in rows} == {"90", "200"}
    assert {row["ideal_hit_rate"] for row in rows} == {"0.4"}
    with_disk = rows[1]
    hits = int(with_disk["memory_hit_tokens"]) + int(with_disk["disk_hit_tokens"])
    assert hits + int(with_disk["recomputed_tokens"]) == 200
    assert "turns" in result.output


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_drawn(trace, tmp_path, suffix):
    path = tmp_path / f"rates.{suffix}"

    result = run(trace, "--memory", "10%", "--memory", "100%", "--plot", path)

    assert result.exit_code == 0, result.output
    assert path.stat().st_size > 1000


def test_what_is_wrong_is_said_in_one_line(trace, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{")

    assert "bad.jsonl:1" in run(tmp_path / "bad.jsonl").output
    assert "expected a size such as 20GiB or 10%" in run(trace, "--memory", "many").output
    for size in ("-5%", "nan%", "1e400%", "2000TiB"):
        assert "expected at most 1024TiB or 10000%" in run(trace, "--memory", size).output
    assert "No such file" in run(trace, "--memory", "10%", "--csv", tmp_path / "no/rows").output
    assert "no config.json there" in run(trace, "--model", tmp_path).output
    assert "expected a --model" in run(trace, "--dtype", "fp8_e4m3").output
    (tmp_path / "bad.jsonl").write_bytes(b"\x1f\x8b")
    assert "expected JSON lines in UTF-8" in run(tmp_path / "bad.jsonl").output
