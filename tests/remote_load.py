"""Requests of agents, served by two hosts that share a server, every row of KV compared.

What a token's KV is follows from the tokens up to it, so what was loaded is right or wrong beyond
doubt. Memory keeps a part of what is asked for: the rest comes from the server or is computed.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from radixkv_sglang_cpu.call_timer import CallTimer
from remote_host import Host
from test_cache import NUM_SLOTS, Engine

NUM_LAYERS, ROW_BYTES = 4, 4096
NUM_TASKS, LONGEST_TOKENS = 40, 320

Tokens = NDArray[np.uint32]


def kv_of(tokens: Tokens) -> NDArray[np.uint8]:
    """The KV that an engine would compute. Shape (2 * layers, tokens, row bytes)."""
    steps = np.arange(1, len(tokens) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    prefixes = np.cumsum((tokens.astype(np.uint64) + np.uint64(1)) * steps, dtype=np.uint64)
    layers = np.arange(1, 2 * NUM_LAYERS + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    words = prefixes[None, :] * (layers[:, None] | np.uint64(1))
    return np.repeat(words[:, :, None], ROW_BYTES // 8, axis=2).view(np.uint8)


@dataclass(slots=True)
class Tally:
    """What came of the requests so far.

    Attributes:
        num_requests: All of them were answered.
        num_wrong: For how many a row of KV was not the one that belongs there.
        num_failed: How many loads or stores failed.
        longest_request_s: From its arrival until it was computed.
    """

    num_requests: int = 0
    num_wrong: int = 0
    num_failed: int = 0
    longest_request_s: float = 0.0


class Load:
    """Serves requests, one after the other, by the hosts in turn.

    Args:
        hosts: From `load_host`.
        seed: Of the requests.
    """

    def __init__(self, hosts: Sequence[Host], seed: int = 0) -> None:
        self.tally = Tally()
        gc.collect()
        gc.freeze()  # what the whole process keeps is no part of a call's affair
        others = [thread.native_id for thread in threading.enumerate() if thread.native_id]
        self.timer = CallTimer(set(others) - {threading.get_native_id()})
        self._hosts = hosts
        self._chance = random.Random(seed)
        self._systems = [self._draw(75), self._draw(41)]
        self._tasks: list[list[int]] = [[] for _ in range(NUM_TASKS)]

    def close(self) -> None:
        """The end of it."""
        self.timer.close()
        gc.unfreeze()

    def run_for(self, seconds: float) -> None:
        """Serve for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.serve_next()

    def run_until(self, is_so: Callable[[], bool], limit_s: float) -> float:
        """Serve until something is so; gives the seconds that it took."""
        begun = time.monotonic()
        while not is_so():
            assert time.monotonic() < begun + limit_s, self.tally
            self.serve_next()
        return time.monotonic() - begun

    def count(self, name: str) -> int:
        """A counter of the planners, summed up."""
        return sum(getattr(host.counters, name) for host in self._hosts)

    def serve_next(self) -> None:
        """One request, by the host whose turn it is."""
        task = self._chance.choice(self._tasks)
        if not task or len(task) > LONGEST_TOKENS:
            task[:] = self._chance.choice(self._systems)
        task += self._draw(self._chance.randrange(5, 60))
        host = self._hosts[self.tally.num_requests % len(self._hosts)]
        self._serve(host, np.array(task, np.uint32))
        self.tally.num_requests += 1

    def _draw(self, length: int) -> list[int]:
        return self._chance.choices(range(1000), k=length)

    def _serve(self, host: Host, tokens: Tokens) -> None:
        cache, timed, tally = host.cache, self.timer, self.tally
        begun = time.monotonic()
        prefetch = timed("prefetch", lambda: cache.prefetch(tokens))
        while prefetch is not None and not prefetch.done:
            self._tick(host)
        if prefetch is not None:
            timed("end_prefetch", lambda: cache.end_prefetch(prefetch))
        rows, slots = kv_of(tokens), np.arange(len(tokens))
        host.engine.wipe()
        handle = timed("acquire", lambda: cache.acquire(tokens))
        num_loaded = handle.num_memory_tokens
        if num_loaded:
            self._await(host, timed("load", lambda: cache.load(handle, slots[:num_loaded])))
        timed("close", handle.close)
        found = host.engine.rows(slots[:num_loaded])
        tally.num_wrong += not np.array_equal(found, rows[:, :num_loaded])
        for array, computed in zip(host.engine.arrays, rows, strict=True):
            array[: len(tokens)] = computed
        tally.longest_request_s = max(tally.longest_request_s, time.monotonic() - begun)
        self._await(host, timed("store", lambda: cache.store(tokens, slots)))

    def _await(self, host: Host, ticket) -> None:
        while ticket is not None and not ticket.done:
            self._tick(host)
        self.tally.num_failed += ticket is not None and not ticket.wait()

    def _tick(self, host: Host) -> None:
        host.cache.wait_for_completion(0.01)
        self.timer("tick", host.cache.tick)


def load_host(url: str, deadline: str = "1s") -> Host:
    """A host whose memory keeps a part of what is asked for.

    Args:
        url: Of its server.
        deadline: Of what a request waits for.
    """
    engine = Engine(num_layers=NUM_LAYERS, row=ROW_BYTES)
    assert NUM_SLOTS >= LONGEST_TOKENS + 60
    settings = {"memory": {"size": "48MiB"}, "prefetch": {"deadline": deadline}}
    return Host(url, engine=engine, **settings)
