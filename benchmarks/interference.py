"""How much does a model's matrix product slow down while KV moves beside it at full rate?

`token_us` says how long a token takes to the host meanwhile, `token_alone_us` without traffic.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from gpu_engine import (
    LOAD,
    STORE,
    TOTAL_BYTES,
    Chunks,
    check,
    circumstances,
    paged_engine,
    random_slots,
)
from harness import emit, interleave, progress
from transfer_peers import Peer, importable_peers

from radixkv import _cuda

SIZE = 8192
PRODUCTS = 60
WARM_UP = 20
NUM_TOKENS = 50
IN_FLIGHT = 2
MAX_TRANSFERS = 60  # traffic ends even where it keeps the model from launching anything
Submit = Callable[[], Any]
Wait = Callable[[Any], None]


class Traffic(contextlib.AbstractContextManager["Traffic"]):
    """Keeps transfers of 2 GiB in flight from a thread of its own, and measures their rate."""

    def __init__(self, submit: Submit, wait: Wait) -> None:
        self._submit, self._wait = submit, wait
        self._stop, self._flowing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.gbps = 0.0

    def _run(self) -> None:
        tickets: deque[Any] = deque()
        begin, num_done = time.perf_counter(), 0
        while not self._stop.is_set() and num_done < MAX_TRANSFERS:
            tickets.append(self._submit())
            if len(tickets) == IN_FLIGHT:
                self._wait(tickets.popleft())
                num_done += 1
                self._flowing.set()
        self.gbps = num_done * TOTAL_BYTES / (time.perf_counter() - begin) / 1e9
        for ticket in tickets:
            self._wait(ticket)

    def __enter__(self) -> Traffic:
        self._thread.start()
        self._flowing.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def on_own_stream(move: Callable[[], object]) -> Traffic:
    """Traffic of what queues its copies on the current stream."""
    stream = torch.cuda.Stream()

    def submit() -> torch.cuda.Event:
        event = torch.cuda.Event()
        with torch.cuda.stream(stream):
            move()
            event.record()
        return event

    return Traffic(submit, torch.cuda.Event.synchronize)


class Model:
    """A loop of bf16 products, and the token that a step ends with."""

    def __init__(self) -> None:
        shape = (SIZE, SIZE)
        self.a, self.b, self.out = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)
        )
        self.token = torch.zeros(1, device="cuda", dtype=torch.int64)
        self.host_token = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self.way_back = torch.cuda.Stream()
        self.launch_us = 0.0
        for _ in range(10):
            self.run()

    def run(self) -> float:
        """Milliseconds a product, once the clocks are where they stay."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(WARM_UP):
            torch.mm(self.a, self.b, out=self.out)
        begin.record()
        started = time.perf_counter()
        for _ in range(PRODUCTS):
            torch.mm(self.a, self.b, out=self.out)
        self.launch_us = (time.perf_counter() - started) / PRODUCTS * 1e6
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / PRODUCTS

    def token_us(self) -> float:
        """Microseconds that a token takes to the host, on a stream of its own."""
        times = []
        for _ in range(NUM_TOKENS):
            began = time.perf_counter()
            with torch.cuda.stream(self.way_back):
                self.host_token.copy_(self.token, non_blocking=True)
            self.way_back.synchronize()
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e6


class Bench:
    """The model alone and, a moment later, beside traffic."""

    def __init__(self) -> None:
        self.model = Model()
        self.chunks = Chunks()
        self.engine = paged_engine()
        self.forward = torch.cuda.Stream()  # idle: what is measured is not the fences
        self.gbps: dict[str, list[float]] = {}
        self.launch_us: dict[str, list[float]] = {}
        self.token_us: dict[str, list[float]] = {}
        self.token_alone_us = self.model.token_us()

    def slowdown(self, name: str, traffic: Callable[[], list[Traffic]]) -> float:
        """Percent, against the mean of before and after."""
        before = self.model.run()
        with contextlib.ExitStack() as stack:
            flows = [stack.enter_context(flow) for flow in traffic()]
            beside = self.model.run()
            self.launch_us.setdefault(name, []).append(self.model.launch_us)
            self.token_us.setdefault(name, []).append(self.model.token_us())
        torch.cuda.synchronize()
        after = self.model.run()
        self.gbps.setdefault(name, []).append(sum(flow.gbps for flow in flows))
        percent = (2 * beside / (before + after) - 1) * 100
        launch_us, token_us = self.launch_us[name][-1], self.token_us[name][-1]
        progress(f"    {name}: {percent:.1f} %, launch {launch_us:.0f} µs, token {token_us:.0f} µs")
        return percent

    def plain(self, direction: Any) -> Traffic:
        """One copy of everything: what no path can undercut."""
        pair = (self.chunks.truth, self.chunks.pinned)
        target, source = pair if direction == LOAD else pair[::-1]
        return on_own_stream(lambda: target.copy_(source, non_blocking=True))

    def peer(self, peer: Peer) -> Callable[[Any], Traffic]:
        return lambda direction: on_own_stream(peer.load if direction == LOAD else peer.store)

    def ours(self, path: Any, page: int) -> Callable[[Any], Traffic]:
        transfer = _cuda.CudaTransfer(self.engine.layout, path=path)
        arguments = self.chunks.arguments(random_slots(page))

        def submit(direction: Any) -> Any:
            call = transfer.load if direction == LOAD else transfer.store
            return call(*arguments, self.forward.cuda_stream)

        check(self.engine, self.chunks, lambda way: transfer.wait(submit(way)), arguments[-1])
        return lambda direction: Traffic(lambda: submit(direction), transfer.wait)

    def cases(self) -> dict[str, Callable[[], float]]:
        flows = {
            "plain": self.plain,
            "kernel": self.ours(_cuda.Path.KERNEL, page=16),
            "staged": self.ours(_cuda.Path.STAGED, page=16),
        }
        slots = torch.from_numpy(random_slots(16)).cuda()
        peers = importable_peers(self.engine, slots)
        flows |= {name: self.peer(peer) for name, peer in peers.items()}
        cases: dict[str, Callable[[], float]] = {}
        for path, flow in flows.items():
            for name, ways in {"h2d": [LOAD], "d2h": [STORE], "both": [LOAD, STORE]}.items():
                traffic = lambda flow=flow, ways=ways: [flow(way) for way in ways]  # noqa: E731
                case = f"interference.{path}.{name}_slowdown"
                cases[case] = lambda case=case, traffic=traffic: self.slowdown(case, traffic)
        return cases


def main() -> None:
    bench = Bench()
    for name, slowdowns in interleave(bench.cases()).items():
        extra = {
            "gbps": round(statistics.median(bench.gbps[name]), 1),
            "launch_us": round(statistics.median(bench.launch_us[name]), 1),
            "token_us": round(statistics.median(bench.token_us[name]), 1),
            "token_alone_us": round(bench.token_alone_us, 1),
            "product": SIZE,
        }
        emit(name, slowdowns, "%", **extra, **circumstances())
        progress(f"  {name}: {statistics.median(slowdowns):.1f} % {extra}")


if __name__ == "__main__":
    main()
