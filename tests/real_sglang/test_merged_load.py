"""Of a load that failed nothing is kept, by whomever its slots were read: see `merged_load.py`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from sglang_harness import engine_python


def test_what_was_merged_with_a_failed_load_is_not_kept() -> None:
    script = Path(__file__).with_name("merged_load.py")

    done = subprocess.run(
        [engine_python("sglang-0.5.18"), "-P", script],
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    for num_kept, num_right in json.loads(done.stdout.splitlines()[-1]):
        assert num_kept == num_right > 0
