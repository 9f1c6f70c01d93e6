"""How much of what hindsight could find does each eviction policy find?

    make bench NAME=replay DATA=FOLDER

replays every trace of FOLDER (files of JSON lines, and folders of them), and five generated ones
(`replay_traces.py`), through the control plane, for every policy, at capacities from 1 to 100 %
of the trace's distinct tokens. A row's value is the share of the prompts' tokens that was found in
memory; `baseline` is the offline optimum's, which no policy can reach. Nothing is timed: a replay
is deterministic, so `value` and `best` are the same.

The last rows have each policy's mean of hit rate over optimum, over all capacities and traces: of
the recorded ones (where FOLDER is given), of the generated ones and of all.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import replay_traces
from harness import emit, progress

from radixkv.config import POLICIES
from radixkv.replay import Setup, Trace, ideal, optimum, read_trace, replay

PERCENTS = (1, 3, 10, 30, 100)
SEED = 2
Shares = dict[str, list[float]]  # hit rate over optimum, by policy


def recorded(folder: Path) -> Iterator[Trace]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jsonl" or (path.is_dir() and any(path.glob("*.jsonl"))):
            yield read_trace(path)


def generated() -> Iterator[Trace]:
    for name in replay_traces.PATTERNS:
        yield replay_traces.generate(name, SEED)


def run(trace: Trace) -> Shares:
    """Replays one trace in all configurations."""
    shares: Shares = {policy: [] for policy in POLICIES}
    for percent in PERCENTS:
        capacity = round(trace.num_distinct_tokens * percent / 100)
        best = optimum(trace, capacity)
        for policy in POLICIES:
            result = replay(trace, Setup(capacity, policy=policy))
            emit(
                f"replay.{trace.name}.{policy}.{percent}_hit_rate",
                [result.hit_rate],
                "share/1",
                baseline=round(best / trace.num_tokens, 4),
                baseline_name="offline optimum",
                ideal=round(ideal(trace) / trace.num_tokens, 4),
                capacity_tokens=capacity,
            )
            shares[policy].append(result.hit_tokens / best if best else 1.0)
    return shares


def summarize(name: str, traces: list[Shares]) -> None:
    for policy in POLICIES:
        shares = [share for trace in traces for share in trace[policy]]
        emit(f"replay.{name}.{policy}.mean_of_optimum", [statistics.mean(shares)], "share/1")


def main() -> None:
    results: dict[str, list[Shares]] = {"recorded": [], "generated": []}
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is None:
        progress("no DATA=FOLDER: generated traces alone")
    traces = {"recorded": recorded(folder) if folder else iter(()), "generated": generated()}
    for kind, several in traces.items():
        for trace in several:
            progress(f"{trace.name}: {len(trace.requests)} requests")
            results[kind].append(run(trace))
    for kind, shares in results.items():
        if shares:
            summarize(kind, shares)
    summarize("all", [*results["recorded"], *results["generated"]])


if __name__ == "__main__":
    main()
