"""What every benchmark shares: interleaved rounds, one JSON row a case, and what it ran on.

    times = interleave({"ours": ours, "baseline": baseline})
    emit("tiers.memory.load_gbps", times["ours"], "GB/s", baseline=("memcpy", times["baseline"]))

Rows go to stdout, all else to stderr. A row's value is the median over the rounds; `best` stands
beside it, because a busy machine makes numbers worse and never better.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROUNDS = 7


def progress(text: str) -> None:
    """Says on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def interleave(
    cases: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Runs the cases in turn, so that a slow moment of the machine hits all of them alike.

    Each case measures itself and returns its number. The first round warms up and is not counted.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        progress(f"  round {number} of {rounds}" if number else "  warming up")
        for name, case in cases.items():
            value = case()
            if number:
                values[name].append(value)
    return values


def emit(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    baseline: tuple[str, Sequence[float]] | None = None,
    **extra: object,
) -> None:
    """Prints one row.

    Args:
        name: Of the case.
        values: Of its rounds.
        unit: More is better for those that end in "/s", less for all others.
        baseline: What it is held against, and the values of that. The row's `ratio` is that of the
            medians; without a baseline it is null.
        extra: More of what the row tells.
    """
    best = max if unit.endswith("/s") else min
    value = statistics.median(values)
    held_against, others = baseline or (None, [])
    other = statistics.median(others) if others else None
    row: dict[str, object] = {
        "name": name,
        "value": _round(value),
        "unit": unit,
        "best": _round(best(values)),
        "baseline": None if other is None else _round(other),
        "baseline_name": held_against,
        "ratio": round(value / other, 4) if other else None,
        "rounds": len(values),
    }
    print(json.dumps(row | extra | circumstances()), flush=True)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def circumstances() -> dict[str, object]:
    """The machine, the load on it now, and the commit, for a row."""
    return {"load": round(os.getloadavg()[0], 2)} | _machine()


@functools.cache
def _machine() -> dict[str, object]:
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "commit": _commit(),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit measured, with "+" where the working tree differs from it."""
    git = functools.partial(
        subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip() or "unknown"
    changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    return f"{commit}+" if changed else commit
