"""How a benchmark runs several engines: each in a process of its own, on the same prompts.

The benchmark starts itself once for every engine with `--only NAME`. All engines live at once and
go round by round, one at a time, so that a slow phase of the host hits all of them alike; the first
turn of each is its start.

    the benchmark ── go on ───────────▶ an engine: starts, or measures a round …
                  ◀─ values so far ────            … and waits for its next turn

What an engine has measured is here after each of its rounds: one that fails, and time that runs
out, cost the rounds that are missing and no other. What an engine prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from harness import emit, progress

Times = dict[str, list[float]]
_LOOP_STEPS = 200_000
_CHANNEL = "RADIXKV_BENCH_CHANNEL"
_FOLDER = "RADIXKV_BENCH_FOLDER"  # goes with the benchmark, however the engine ends
_POLL_S = 1.0
_END_TIMEOUT_S = 10.0


class Clock:
    """When the engines have to end."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + minutes * 60

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    def stop(self) -> None:
        """It is over now."""
        self._end = 0.0


class Side:
    """One engine, seen from the benchmark: a process that has not begun yet.

    Args:
        name: What `--only` gets.
        folder: Where it keeps what goes with the benchmark.
        python: Its interpreter.
        arguments: More of them, behind the benchmark's own.

    Attributes:
        name: As given.
        values: What it has measured so far.
        is_complete: Whether that is all.
    """

    def __init__(
        self, name: str, folder: str, python: str = sys.executable, arguments: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.values: Times = {}
        self.is_complete = False
        self._has_turn = False
        self._channel, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [python, *sys.argv, "--only", name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=os.environ | {_CHANNEL: str(theirs.fileno()), _FOLDER: folder},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def go_on(self, clock: Clock) -> bool:
        """Let it have a turn; gives whether it wants another one."""
        progress(f"{self.name}: its turn")
        try:
            self._channel.send(None)
            self._has_turn = True
            while not self._channel.poll(_POLL_S):
                if clock.is_over:
                    progress(f"{self.name}: time is up")
                    return False
                if self._process.poll() is not None and not self._channel.poll():
                    raise EOFError
            self.is_complete, self.values = self._channel.recv()
            self._has_turn = False
        except (EOFError, OSError):
            self._has_turn = False
            self.end()
            progress(f"{self.name}: FAILED, its process ended with {self._process.returncode}")
            return False
        if self.is_complete:
            progress(f"{self.name}: all is measured: {json.dumps(self.values)}")
        return not self.is_complete

    def hang_up(self) -> None:
        """Ask for nothing more: it ends by itself if it waits for a turn."""
        self._channel.close()

    def end(self) -> None:
        """End it, in the middle of a turn if need be, and what it started."""
        self.hang_up()
        if not self._has_turn:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def add_options(parser: ArgumentParser, names: Iterable[str]) -> None:
    """The options of every benchmark that measures in turns."""
    parser.add_argument("--only", choices=list(names), help="measure this one, print its values")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="print what is measured by then, and end"
    )


@contextlib.contextmanager
def measured_in_turns(
    names: Sequence[str],
    minutes: float = math.inf,
    *,
    python: str = sys.executable,
    arguments: Sequence[str] = (),
) -> Iterator[dict[str, Times]]:
    """The values of several engines that all lived meanwhile, as far as each of them came. Where
    they call `take_turn`, the next one goes on. SIGTERM is time that runs out. For `python` and
    `arguments` see `Side`.

    Raises:
        SystemExit: After the caller has done what it does with the values: some engines failed or
            did not come to their end.
    """
    clock = Clock(minutes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_called_at_sigterm(clock.stop))
        sides = []
        for name in names:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="radixkv-bench-", ignore_cleanup_errors=True)
            )
            sides.append(Side(name, folder, python, arguments))
            stack.callback(sides[-1].end)
        for side in sides:
            stack.callback(side.hang_up)  # before the first of them is waited for
        going = sides
        while going and not clock.is_over:
            going = [side for side in going if side.go_on(clock)]
        yield {side.name: side.values for side in sides}
        incomplete = [side.name for side in sides if not side.is_complete]
        if incomplete:
            sys.exit(f"not all was measured of {', '.join(incomplete)}")


def measure(name: str, *arguments: str, python: str = sys.executable) -> Times:
    """Runs the calling benchmark, with `--only name` and more arguments beside its own options, in
    a process of its own; gives its values.

    Raises:
        SystemExit: The engine failed.
    """
    with measured_in_turns([name], python=python, arguments=arguments) as values:
        return values[name]


@contextlib.contextmanager
def _called_at_sigterm(call: Callable[[], None]) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        call()

    before: Any = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- in the process of an engine


@functools.cache
def _benchmark() -> Connection | None:
    """The benchmark that started this process; None where a person did."""
    number = os.environ.get(_CHANNEL)
    if number is None:
        return None
    os.set_inheritable(int(number), False)  # not for processes that the engine starts
    return Connection(int(number))


def take_turn(times: Times) -> None:
    """Between two rounds: says what is measured so far, and lets the other engines run a round."""
    benchmark = _benchmark()
    if benchmark is not None:
        benchmark.send((False, times))
        _await_turn(benchmark)


def _await_turn(benchmark: Connection) -> None:
    try:
        benchmark.recv()
    except EOFError:
        sys.exit("nobody waits for more rounds")


def run_alone(run: Callable[[Path], Times]) -> None:
    """The other side of `measure`: runs in a folder that goes afterwards, and says the values; on
    stdout where a person asked.
    """
    benchmark = _benchmark()
    if benchmark is not None:
        _await_turn(benchmark)
    try:
        with tempfile.TemporaryDirectory(
            dir=os.environ.get(_FOLDER), prefix="radixkv-bench-", ignore_cleanup_errors=True
        ) as folder:
            values = run(Path(folder))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # an engine that failed may have threads that never end
    if benchmark is None:
        print(json.dumps(values), flush=True)
    else:
        benchmark.send((True, values))


# --- values


def emit_beside(
    name: str,
    ours: Sequence[float],
    unit: str,
    peers: Mapping[str, Sequence[float]],
    **circumstances: object,
) -> None:
    """A row of ours with the medians of its peers; the first one is the baseline, if it has any."""
    medians = {peer: statistics.median(values) for peer, values in peers.items() if values}
    extra: dict[str, object] = {peer: round(median, 3) for peer, median in medians.items()}
    first = next(iter(peers))
    baseline = (first, peers[first]) if first in medians else None
    emit(name, ours, unit, baseline=baseline, **extra, **circumstances)


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
