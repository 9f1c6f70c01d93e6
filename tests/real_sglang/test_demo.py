"""`make demo`, with the model that needs no download."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from sglang_harness import REPOSITORY, engine_python

# Three servers start one after the other.
pytestmark = pytest.mark.soak


def run_demo(*arguments: str | Path) -> str:
    done = subprocess.run(
        [engine_python("sglang-0.5.23"), "-m", "examples.demo", "--model", "random", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_answer_is_the_same_with_radixkv() -> None:
    shown = run_demo()

    assert "14/14" in shown
    assert "from memory" in shown
    assert "from disk" in shown


def test_a_trace_is_replayed_and_what_is_too_long_is_cut(tmp_path: Path) -> None:
    texts = ["a shared beginning " * 50 + f"and end {i}" for i in range(3)] + ["x" * 14_000]
    lines = [json.dumps({"timestamp": i, "input": text}) for i, text in enumerate(texts)]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))

    shown = run_demo("--trace", tmp_path)

    words = " ".join(shown.split())
    assert "The first 4 of 4 recorded requests." in words
    assert "the model's 12,288 tokens with an answer: 1 of them, by 1,744 tokens in all." in words
    assert "4/4" in shown
