"""How fast does KV move between pinned memory and a GPU, beside one plain copy of as many bytes and
what SGLang and LMCache move it with, where they are installed?
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_engine import (
    CHUNK_BYTES,
    LOAD,
    STORE,
    TOTAL_BYTES,
    VLLM_BLOCK,
    Chunks,
    Engine,
    check,
    circumstances,
    paged_engine,
    random_slots,
    vllm_engine,
)
from harness import emit, interleave, progress
from transfer_peers import Peer, importable_peers

from radixkv import _cuda

Case = Callable[[], float]
NAMES = {LOAD: "h2d", STORE: "d2h"}
SMALL_REPEATS = 20


class Bench:
    """One engine's transfers, by kernel alone and by the path that the calibration chose."""

    def __init__(self, engine: Engine, chunks: Chunks) -> None:
        self.chunks = chunks
        self.engine = engine
        self.transfers = {
            "kernel": _cuda.CudaTransfer(engine.layout, path=_cuda.Path.KERNEL),
            "best": _cuda.CudaTransfer(engine.layout),
        }
        self.paths: dict[str, str] = {}
        self.calls_ms: dict[str, list[float]] = {}

    def run(self, which: str, direction: Any, arguments: tuple[Any, ...], name: str = "") -> float:
        """Seconds from the call to the end."""
        transfer = self.transfers[which]
        submit = transfer.load if direction == LOAD else transfer.store
        begin = time.perf_counter()
        ticket = submit(*arguments, torch.cuda.current_stream().cuda_stream)
        self.calls_ms.setdefault(name, []).append((time.perf_counter() - begin) * 1e3)
        transfer.wait(ticket)
        elapsed = time.perf_counter() - begin
        self.paths[name] = transfer.path(ticket).name.lower()
        return elapsed

    def check(self, page: int) -> None:
        arguments = self.chunks.arguments(random_slots(page))
        for which in self.transfers:
            run = functools.partial(self.run, which, arguments=arguments)
            check(self.engine, self.chunks, run, arguments[-1])

    def cases(self, layout: str, page: int, direction: Any) -> dict[str, Case]:
        arguments = self.chunks.arguments(random_slots(page))
        cases: dict[str, Case] = {}
        for which in self.transfers:
            name = f"transfer.{NAMES[direction]}.{which}.{layout}_gbps"
            cases[name] = lambda which=which, name=name: (
                TOTAL_BYTES / self.run(which, direction, arguments, name) / 1e9
            )
        return cases

    def small_cases(self, direction: Any) -> dict[str, Case]:
        """One chunk, all layers, queue to done."""
        arguments = self.chunks.arguments(random_slots(64), num_chunks=1)

        def median_us(which: str, name: str) -> float:
            times = [self.run(which, direction, arguments, name) for _ in range(SMALL_REPEATS)]
            return statistics.median(times) * 1e6

        names = {which: f"transfer.{NAMES[direction]}.{which}.chunk_us" for which in self.transfers}
        return {name: lambda w=which, n=name: median_us(w, n) for which, name in names.items()}


def plain_copy(chunks: Chunks, direction: Any) -> Case:
    """The ceiling: one cudaMemcpyAsync of everything."""
    target, source = chunks.truth, chunks.pinned
    if direction == STORE:
        target, source = source, target

    def run() -> float:
        begin = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        return TOTAL_BYTES / (time.perf_counter() - begin) / 1e9

    return run


def peer_cases(peers: dict[str, Peer], direction: Any) -> dict[str, Case]:
    """Pages of 16 tokens; a peer's kernels hardly mind the page."""

    def rate(move: Callable[[], None]) -> float:
        begin = time.perf_counter()
        move()
        torch.cuda.synchronize()
        return TOTAL_BYTES / (time.perf_counter() - begin) / 1e9

    moves = {name: peer.load if direction == LOAD else peer.store for name, peer in peers.items()}
    return {
        f"transfer.{NAMES[direction]}.{name}.page16_gbps": functools.partial(rate, move)
        for name, move in moves.items()
    }


def main() -> None:
    chunks = Chunks()
    paged = Bench(paged_engine(), chunks)
    nhd = Bench(vllm_engine(heads_first=False), chunks)
    hnd = Bench(vllm_engine(heads_first=True), chunks)
    for times in paged.transfers["best"].path_times:
        us = dict(zip(_cuda.Path.__members__, (round(us, 1) for us in times.us), strict=True))
        progress(f"  measured at start: {times.direction.name} {times.num_bytes} B: {us}")

    engines = [(f"page{page}", paged, page) for page in (1, 16, 64)]
    engines += [("vllm", nhd, VLLM_BLOCK), ("vllm_hnd", hnd, VLLM_BLOCK)]
    for layout, bench, page in engines:
        progress(f"  checking {layout}")
        bench.check(page)

    peers = importable_peers(paged.engine, torch.from_numpy(random_slots(16)).cuda())
    for direction, name in NAMES.items():
        cases = {f"transfer.{name}.plain_gbps": plain_copy(chunks, direction)}
        cases |= peer_cases(peers, direction)
        for layout, bench, page in engines:
            cases |= bench.cases(layout, page, direction)
        small = paged.small_cases(direction)
        values = interleave(cases | small)

        baseline = ("one plain copy", values[f"transfer.{name}.plain_gbps"])
        paths = paged.paths | nhd.paths | hnd.paths
        calls_ms = paged.calls_ms | nhd.calls_ms | hnd.calls_ms
        for case in cases:
            path = paths.get(case, case.split(".")[2].removesuffix("_gbps"))
            extra: dict[str, Any] = {"path": path}
            if case in calls_ms:
                extra["call_ms"] = round(statistics.median(calls_ms[case]), 2)
            emit(case, values[case], "GB/s", baseline=baseline, **extra, **circumstances())
        plain = statistics.median(baseline[1])
        limit_us = round(1.6 * (CHUNK_BYTES / plain / 1e3 + 10), 1)
        for case in small:
            emit(case, values[case], "µs", path=paths[case], limit=limit_us, **circumstances())


if __name__ == "__main__":
    main()
