"""How a benchmark runs several engines: each in a process of its own, on the same prompts.

The benchmark starts itself once for every engine with `--only NAME`; that process prints its values
as the last line. With `measure_in_turns` all engines live at once and go round by round, one at a
time, so that a slow phase of the host hits all of them alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import emit, progress

Times = dict[str, list[float]]
_LOOP_STEPS = 200_000
_TAKES_TURNS = "RADIXKV_BENCH_TURNS"
_TURN_IS_OVER = "the turn is over"


def measure(name: str) -> Times:
    """Runs the calling benchmark, with `--only name` beside its own options, in a process of its
    own; gives its values."""
    progress(f"{name}: starting the engine")
    command = [sys.executable, *sys.argv, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: Times = json.loads(done.stdout.splitlines()[-1])
    return values


def measure_in_turns(names: Sequence[str]) -> dict[str, Times]:
    """As `measure`, for several engines that all live meanwhile. Where they call `take_turn`, the
    next one goes on.

    Raises:
        RuntimeError: One of them ended without values; what it said is on stderr.
    """
    values: dict[str, Times] = {}
    with contextlib.ExitStack() as stack:
        engines = {name: stack.enter_context(_engine(name)) for name in names}
        while len(values) < len(names):
            for name in names:
                found = None if name in values else _go_on(name, engines[name])
                if found is not None:
                    values[name] = found
    return values


@contextlib.contextmanager
def _engine(name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has not begun yet; killed if it has not ended by itself."""
    process = subprocess.Popen(
        [sys.executable, *sys.argv, "--only", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {_TAKES_TURNS: "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _go_on(name: str, process: subprocess.Popen[str]) -> Times | None:
    """Lets an engine go on to the end of its turn; gives its values if it has measured all."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it is said below
        process.stdin.write("\n")
        process.stdin.flush()
    last = ""
    for line in process.stdout:
        if line.rstrip() == _TURN_IS_OVER:
            return None
        last = line
    if process.wait() or not last.startswith("{"):
        raise RuntimeError(f"{name}: ended with {process.returncode} before it had all values")
    values: Times = json.loads(last)
    return values


def take_turn() -> None:
    """Between two rounds: lets the other engines run one, where there are others."""
    if os.environ.get(_TAKES_TURNS):
        print(_TURN_IS_OVER, flush=True)
        sys.stdin.readline()


def run_alone(run: Callable[[Path], Times]) -> None:
    """The other side of `measure`: runs in a folder that goes afterwards, and prints the values."""
    if os.environ.get(_TAKES_TURNS):
        sys.stdin.readline()  # the others start first, or have started
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
