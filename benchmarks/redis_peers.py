"""Other clients that put values to a Redis and get them: what any client reaches, and LMCache's.

Each moves as many bytes as a case of `remotes.py`, in values of as many bytes, a few at a time.
"""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

numbers = itertools.count()


class Values:
    """What is put and gotten, under new names each time.

    Args:
        num_values: How many.
        value_bytes: Of each.
        at_a_time: How many are asked for before the first has come.
    """

    def __init__(self, num_values: int, value_bytes: int, at_a_time: int) -> None:
        self._source = np.ones(num_values * value_bytes, np.uint8)
        self._target = np.zeros(num_values * value_bytes, np.uint8)
        self._value_bytes = value_bytes
        self._at_a_time = at_a_time
        self._names: list[str] = []

    def put(self, send: Callable[[Sequence[str], list[memoryview]], None]) -> float:
        number = next(numbers)
        num_values = len(self._source) // self._value_bytes
        self._names = [f"peer {number}:{i}" for i in range(num_values)]
        return self._rate(send, self._source)

    def get(self, receive: Callable[[Sequence[str], list[memoryview]], None]) -> float:
        self._target[:] = 0
        rate = self._rate(receive, self._target)
        assert self._target.all()
        return rate

    def _rate(
        self, move: Callable[[Sequence[str], list[memoryview]], None], memory: np.ndarray
    ) -> float:
        """Bytes a second, in GB."""
        parts = [memoryview(part) for part in np.split(memory, len(self._names))]
        begun = time.perf_counter()
        for first in range(0, len(parts), self._at_a_time):
            last = first + self._at_a_time
            move(self._names[first:last], parts[first:last])
        return len(memory) / (time.perf_counter() - begun) / 1e9


class PlainClient:
    """One connection, payloads from and to where they lie, nothing checked: no client does less."""

    def __init__(self, url: str, values: Values, send_bytes: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if send_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        self._values = values

    def put(self) -> float:
        return self._values.put(self.send)

    def get(self) -> float:
        return self._values.get(self._receive)

    def send(self, names: Sequence[str], parts: list[memoryview]) -> None:
        for name, part in zip(names, parts, strict=True):
            head = f"*3\r\n$3\r\nSET\r\n${len(name)}\r\n{name}\r\n${len(part)}\r\n"
            self._socket.sendall(head.encode())
            self._socket.sendall(part)
            self._socket.sendall(b"\r\n")
        for _ in names:
            assert self._read(5) == b"+OK\r\n"

    def _receive(self, names: Sequence[str], parts: list[memoryview]) -> None:
        requests = (f"*2\r\n$3\r\nGET\r\n${len(name)}\r\n{name}\r\n" for name in names)
        self._socket.sendall("".join(requests).encode())
        for part in parts:
            head = f"${len(part)}\r\n".encode()
            assert self._read(len(head)) == head
            rest = part
            while rest:
                rest = rest[self._socket.recv_into(rest) :]
            assert self._read(2) == b"\r\n"

    def _read(self, count: int) -> bytes:
        return self._socket.recv(count, socket.MSG_WAITALL)


class FastestPuts:
    """Puts by so many connections, each of which sends all that it has before it reads a reply.

    No client of this server puts faster: nothing is asked before, and nothing checked.

    Args:
        url: The server's.
        values: What is put.
        num_connections: Each has a thread.
        send_bytes: How much may be on its way; None for what the kernel thinks best.
    """

    def __init__(
        self, url: str, values: Values, num_connections: int, send_bytes: int | None
    ) -> None:
        self._clients = [PlainClient(url, values, send_bytes) for _ in range(num_connections)]
        self._values = values

    def put(self) -> float:
        return self._values.put(self._send)

    def _send(self, names: Sequence[str], parts: list[memoryview]) -> None:
        count = len(self._clients)
        threads = [
            threading.Thread(target=client.send, args=(names[first::count], parts[first::count]))
            for first, client in enumerate(self._clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class LMCacheClient:
    """LMCache's native client, with as many workers as it has by default.

    Raises:
        ImportError: LMCache is not installed.
    """

    NUM_WORKERS = 8

    def __init__(self, url: str, values: Values) -> None:
        import torch  # noqa: F401  (its libraries are needed to load LMCache's)
        from lmcache.lmcache_redis import LMCacheRedisClient

        parts = urlsplit(url)
        self._client: Any = LMCacheRedisClient(parts.hostname, parts.port, self.NUM_WORKERS)
        self._values = values

    def put(self) -> float:
        return self._values.put(
            lambda names, parts: self._await(self._client.submit_batch_set(list(names), parts))
        )

    def get(self) -> float:
        return self._values.get(
            lambda names, parts: self._await(self._client.submit_batch_get(list(names), parts))
        )

    def _await(self, batch_id: int) -> None:
        while True:
            select.select([self._client.event_fd()], [], [])
            for ended_id, is_ok, error, _ in self._client.drain_completions():
                assert is_ok, error
                if ended_id == batch_id:
                    return
