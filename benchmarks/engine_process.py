"""How a benchmark runs several engines: each in a process of its own, on the same prompts.

The benchmark starts itself once for every engine with `--only NAME`; that process prints its values
as the last line.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import emit, progress

Times = dict[str, list[float]]
_LOOP_STEPS = 200_000


def measure(name: str) -> Times:
    """Runs the calling benchmark, with `--only name` beside its own options, in a process of its
    own; gives its values."""
    progress(f"{name}: starting the engine")
    command = [sys.executable, *sys.argv, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: Times = json.loads(done.stdout.splitlines()[-1])
    return values


def run_alone(run: Callable[[Path], Times]) -> None:
    """The other side of `measure`: runs in a folder that goes afterwards, and prints the values."""
    folder = Path(tempfile.mkdtemp(prefix="radixkv-bench-"))
    try:
        values = run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(values), flush=True)


def emit_beside(
    name: str, ours: Sequence[float], unit: str, peers: Mapping[str, Sequence[float]]
) -> None:
    """A row of ours with the medians of its peers; the first one is the baseline."""
    medians = {peer: statistics.median(values) for peer, values in peers.items() if values}
    extra: dict[str, object] = {peer: round(median, 3) for peer, median in medians.items()}
    for peer, median in list(medians.items())[:1]:
        ratio = round(statistics.median(ours) / median, 3) if median else None
        extra |= {"baseline": round(median, 3), "baseline_name": peer, "ratio": ratio}
    emit(name, ours, unit, **extra)


def add(times: Times, values: Mapping[str, float]) -> None:
    """Adds a round's values."""
    for name, value in values.items():
        times.setdefault(name, []).append(value)


def time_a_loop() -> float:
    """Milliseconds that one core takes for a loop in Python: how fast the host is just now."""
    began = time.perf_counter()
    for _ in range(_LOOP_STEPS):
        pass
    return (time.perf_counter() - began) * 1e3


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
