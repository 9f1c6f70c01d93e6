"""The example that the README sends people to runs, and says what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"


def test_the_quickstart_runs_in_a_fresh_process(tmp_path):
    done = subprocess.run(
        [sys.executable, QUICKSTART], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "stored 601 tokens",
        "581 of 605 tokens are kept, up to 'assistant. W'",
        "loaded and computed KV are equal",
        "after a restart: 601 tokens kept, 0 in memory",
        "601 tokens loaded from disk",
    ]
