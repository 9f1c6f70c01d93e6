"""Benchmarks of engines: all engines live at once, and one that fails takes nothing with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# "dies" leaves a process of its own behind; "fails" has one round; "hangs" never ends its second
# one, and asks for the end of all instead.
BENCHMARK = """
import argparse, json, os, pathlib, signal
from engine_process import (
    add, add_options, emit_beside, measure, measured_in_turns, run_alone, take_turn
)

log = pathlib.Path(__file__).with_suffix(".log")

def note(text):
    with log.open("a") as file:
        print(text, file=file)

def run(name, folder):
    print("what an engine says on stdout")
    note(f"{name} starts in {folder}")
    if name == "dies":
        if not os.fork():
            signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)
    times = {}
    for number in range(2):
        take_turn(times)
        note(f"{name} {number}")
        if number and name == "fails":
            raise RuntimeError("no second round")
        if number and name == "hangs":
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
        add(times, {"speed_ms": number + 1})
    return times

parser = argparse.ArgumentParser()
parser.add_argument("names")
parser.add_argument("--note")
add_options(parser, ["good", "fails", "dies", "hangs"])
options = parser.parse_args()
if options.note:
    note(f"{options.note} by {os.environ['INTERPRETER']}")
if options.only:
    run_alone(lambda folder: run(options.only, folder))
elif options.names == "elsewhere":
    print(json.dumps({"name": "alone", **measure("good", "--note", "asked", python="./other")}))
elif options.names.startswith("alone:"):
    print(json.dumps({"name": "alone", **measure(options.names.removeprefix("alone:"))}))
else:
    names = options.names.split(",")
    with measured_in_turns(names, options.minutes) as values:
        for name in names:
            if "speed_ms" in values[name]:
                peers = {peer: values[peer].get("speed_ms", []) for peer in names}
                emit_beside(name, values[name]["speed_ms"], "ms", peers)
"""


class Run:
    """One run of the benchmark: its rows by name, what it said, and the order of what happened."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        script = folder / "benchmark.py"
        script.write_text(BENCHMARK)
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(BENCHMARKS), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.status = done.returncode
        self.said = done.stderr
        self.rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
        log = folder / "benchmark.log"
        self.log = log.read_text().splitlines() if log.exists() else []
        self.left = sorted(path.name for path in folder.glob("radixkv-bench-*"))


def test_engines_take_turns(tmp_path: Path) -> None:
    run = Run(tmp_path, "good,fails")

    turns = [line for line in run.log if "starts" not in line]
    assert turns == ["good 0", "fails 0", "good 1", "fails 1"]
    assert run.rows["good"]["value"] == 1.5
    assert run.rows["good"]["fails"] == 1
    assert "what an engine says on stdout" in run.said


def test_an_engine_that_fails_keeps_its_rounds_and_the_others_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path, "dies,fails,good")

    assert {name: row["rounds"] for name, row in run.rows.items()} == {"fails": 1, "good": 2}
    assert run.rows["good"]["baseline"] is None  # the first of the peers has none
    assert run.status == 1
    assert "RuntimeError: no second round" in run.said
    assert "dies: FAILED, its process ended with -9" in run.said
    assert "fails: FAILED, its process ended with 1" in run.said
    assert "not all was measured of dies, fails" in run.said
    assert run.left == []


def test_a_turn_that_does_not_end_costs_one_round(tmp_path: Path) -> None:
    run = Run(tmp_path, "good,hangs")

    assert {name: row["rounds"] for name, row in run.rows.items()} == {"good": 2, "hangs": 1}
    assert run.status == 1
    assert "hangs: time is up" in run.said
    assert run.left == []


def test_time_that_runs_out_ends_all(tmp_path: Path) -> None:
    run = Run(tmp_path, "good,fails", "--minutes", "0")

    assert run.rows == {}
    assert run.status == 1
    assert run.log == []
    assert run.left == []


def test_an_engine_alone_measures_all_of_its_rounds(tmp_path: Path) -> None:
    run = Run(tmp_path, "alone:good")

    assert run.status == 0
    assert run.rows["alone"]["speed_ms"] == [1, 2]


def test_an_engine_alone_that_fails_gives_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, "alone:fails")

    assert run.status == 1
    assert run.rows == {}


def test_an_engine_may_have_another_interpreter_and_more_arguments(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(f'#!/bin/sh\nINTERPRETER=another exec {sys.executable} "$@"\n')
    other.chmod(0o755)

    run = Run(tmp_path, "elsewhere")

    assert run.status == 0
    assert run.log[0] == "asked by another"
    assert run.rows["alone"]["speed_ms"] == [1, 2]


def test_one_engine_by_hand_prints_its_values(tmp_path: Path) -> None:
    script = tmp_path / "benchmark.py"
    script.write_text(BENCHMARK)
    done = subprocess.run(
        [sys.executable, str(script), "-", "--only", "good"],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert json.loads(done.stdout.splitlines()[-1]) == {"speed_ms": [1, 2]}
