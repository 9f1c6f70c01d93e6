"""How much of what hindsight could find does each eviction policy find?

    make bench NAME=replay DATA=FOLDER ARGS=TOKENIZER

replays every trace of FOLDER (files of JSON lines, and folders of them), and five generated ones
(`replay_traces.py`), through the control plane, for every policy, at capacities from 1 to 100 %
of the trace's distinct tokens. A row's value is the share of the prompts' tokens that was found in
memory; `baseline` is the offline optimum's, which no policy can reach. A replay is deterministic,
so `value` and `best` are the same.

Text is replayed at other sizes of chunks too, and with chunks of one token ("exact"): how much of
a capacity do larger chunks waste? It is cut into tokens by TOKENIZER, a tokenizer.json, by default
the demo's model's where `make demo` has left it and the package `tokenizers` is installed; else
each byte is a token.

`configuration_s` is the time that one replay took, over all policies and capacities, and
`with_disk_s` the same with memory for 3 % and a disk for 30 %. The last rows have each policy's
mean of hit rate over optimum, over all capacities and traces: of the recorded ones (where FOLDER is
given), of the generated ones and of all.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import replay_traces
from harness import ROUNDS, emit, progress

from radixkv import RadixIndex
from radixkv.config import DEFAULT_POLICY, POLICIES
from radixkv.replay import Replay, Setup, Trace, ideal, optimum, read_trace, replay

PERCENTS = (1, 3, 10, 30, 100)
CHUNK_SIZES = (16, 64, 256)
UNIT_BYTES = 4096
SEED = 2
DEMO_TOKENIZER = Path(__file__).parents[1] / ".cache/models/smollm2/tokenizer.json"
Shares = dict[str, list[float]]  # hit rate over optimum, by policy


def recorded(folder: Path, tokenizer: Path | None) -> Iterator[Trace]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".jsonl" or (path.is_dir() and any(path.glob("*.jsonl"))):
            yield read_trace(path, tokenizer)


def generated() -> Iterator[Trace]:
    for name in replay_traces.PATTERNS:
        yield replay_traces.generate(name, SEED)


def find_tokenizer(given: list[str]) -> Path | None:
    if given:
        return Path(given[0])
    has_reader = importlib.util.find_spec("tokenizers") is not None
    return DEMO_TOKENIZER if has_reader and DEMO_TOKENIZER.exists() else None


def timed(trace: Trace, setup: Setup) -> tuple[Replay, float]:
    begin = time.perf_counter()
    result = replay(trace, setup)
    return result, time.perf_counter() - begin


def capacity_of(trace: Trace, percent: int) -> int:
    return round(trace.num_distinct_tokens * percent / 100)


def run(trace: Trace) -> Shares:
    """Replays one trace in all configurations."""
    shares: Shares = {policy: [] for policy in POLICIES}
    seconds = []
    for percent in PERCENTS:
        capacity = capacity_of(trace, percent)
        best = optimum(trace, capacity)
        for policy in POLICIES:
            result, took = timed(trace, Setup(capacity, policy=policy))
            emit(
                f"replay.{trace.name}.{policy}.{percent}_hit_rate",
                [result.hit_rate],
                "share/1",
                baseline=("offline optimum", [best / trace.num_tokens]),
                ideal=round(ideal(trace) / trace.num_tokens, 4),
                capacity_tokens=capacity,
            )
            shares[policy].append(result.hit_tokens / best if best else 1.0)
            seconds.append(took)
    on_disk = Setup(capacity_of(trace, 3), capacity_of(trace, 30))
    with_disk = [timed(trace, on_disk)[1] for _ in range(ROUNDS)]
    requests = {"requests": len(trace.requests)}
    emit(f"replay.{trace.name}.configuration_s", seconds, "s", **requests)
    emit(f"replay.{trace.name}.with_disk_s", with_disk, "s", **requests)
    return shares


def run_chunk_sizes(trace: Trace, tokens: str) -> None:
    """Replays a trace of text with smaller and larger chunks."""
    for percent in PERCENTS:
        capacity = capacity_of(trace, percent)
        exact = exact_hit_rate(trace, capacity)
        for size in CHUNK_SIZES:
            emit(
                f"replay.{trace.name}.{DEFAULT_POLICY}.chunk_{size}.{percent}_hit_rate",
                [replay(trace, Setup(capacity, chunk_tokens=size)).hit_rate],
                "share/1",
                baseline=("chunks of one token", [exact]),
                capacity_tokens=capacity,
                tokens=tokens,
            )


def exact_hit_rate(trace: Trace, capacity: int) -> float:
    """What an index finds whose chunks have one token; the settings allow none that small."""
    index = RadixIndex(
        1, token_bytes=UNIT_BYTES, unit_bytes=UNIT_BYTES, memory_bytes=capacity * UNIT_BYTES
    )
    num_found = 0
    for number, request in enumerate(trace.requests, 1):
        tokens = trace.tokens(request)
        with index.acquire(tokens, time=number) as handle:
            num_found += handle.num_memory_tokens
        index.insert(tokens, time=number)
    return num_found / trace.num_tokens


def summarize(name: str, traces: list[Shares]) -> None:
    for policy in POLICIES:
        shares = [share for trace in traces for share in trace[policy]]
        emit(f"replay.{name}.{policy}.mean_of_optimum", [statistics.mean(shares)], "share/1")


def main() -> None:
    results: dict[str, list[Shares]] = {"recorded": [], "generated": []}
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    tokenizer = find_tokenizer(sys.argv[2:])
    if folder is None:
        progress("no DATA=FOLDER: generated traces alone")
    traces = {
        "recorded": recorded(folder, tokenizer) if folder else iter(()),
        "generated": generated(),
    }
    for kind, several in traces.items():
        for trace in several:
            progress(f"{trace.name}: {len(trace.requests)} requests")
            results[kind].append(run(trace))
            if trace.block_tokens == 1:
                run_chunk_sizes(trace, str(tokenizer.parent.name) if tokenizer else "bytes")
    for kind, shares in results.items():
        if shares:
            summarize(kind, shares)
    summarize("all", [*results["recorded"], *results["generated"]])


if __name__ == "__main__":
    main()
