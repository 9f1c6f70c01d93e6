"""`pytest --rows FILE` keeps how each test ended, as the benchmarks keep what they measured.

`make soak ROWS=…` uses it: a JSON line a test, with the time that it took, what ran it and on what.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from harness import circumstances


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, metavar="FILE", help="write a JSON line a test to FILE")


class Rows:
    """Writes a test's row when it has ended, so that a run that is cut short leaves its part."""

    def __init__(self, file: TextIO, command: str) -> None:
        self._file = file
        self._command = command
        self._commit = circumstances()["commit"]  # of now: files may change while the tests run
        self._phases: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._phases.append(report)
        if report.when != "teardown":
            return
        outcomes = {phase.outcome for phase in self._phases}
        row = {
            "name": report.nodeid.removeprefix("tests/"),
            "outcome": next(o for o in ("failed", "skipped", "passed") if o in outcomes),
            "seconds": round(sum(phase.duration for phase in self._phases), 1),
            **dict(report.user_properties),
            "command": self._command,
        }
        self._phases.clear()
        print(json.dumps(row | circumstances() | {"commit": self._commit}), file=self._file)
        self._file.flush()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    path: Path | None = session.config.getoption("--rows")
    if path is None:
        return (yield)
    command = shlex.join(["pytest", *session.config.invocation_params.args])
    with path.open("w") as file:
        session.config.pluginmanager.register(Rows(file, command))
        return (yield)
