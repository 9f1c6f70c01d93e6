"""A script in a process of its own that is killed, without a warning, once it says where it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def kill_once_there(script: str, *arguments: str | Path) -> None:
    """Run a script that prints "there", then waits for its input; kill -9 it at that point."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
