"""Stands between a server and those who ask it, and counts what goes to and fro."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PING = b"*1\r\n$4\r\nPING\r\n"  # whether it is still there: nothing that anybody asked for


@dataclass(slots=True)
class Traffic:
    """What went through so far.

    Attributes:
        sent_bytes: To the server.
        received_bytes: From it.
        num_round_trips: How often a connection asked anew after it had been answered.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    num_round_trips: int = 0


class Relay:
    """Listens on a socket in `folder` while `running`; the server is on a socket too."""

    def __init__(self, server: Path, folder: Path) -> None:
        self.traffic = Traffic()
        self._server = server
        self._path = folder / "relay.sock"

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Relay]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._path))
            listener.listen()
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield self
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
                self._path.unlink()

    def _serve(self, listener: socket.socket) -> None:
        others: dict[socket.socket, socket.socket] = {}  # of each connection the other end's
        asking: set[socket.socket] = set()  # clients that were not answered since
        clients: set[socket.socket] = set()
        with contextlib.ExitStack() as sockets:
            while True:
                ready, _, _ = select.select([listener, *others], [], [])
                for source in ready:
                    if source is listener:
                        try:
                            client = sockets.enter_context(listener.accept()[0])
                        except OSError:
                            return  # shut down
                        server = sockets.enter_context(socket.socket(socket.AF_UNIX))
                        server.connect(str(self._server))
                        others |= {client: server, server: client}
                        clients.add(client)
                    elif source in others:
                        self._carry(source, others, clients, asking)

    def _carry(
        self,
        source: socket.socket,
        others: dict[socket.socket, socket.socket],
        clients: set[socket.socket],
        asking: set[socket.socket],
    ) -> None:
        target = others[source]
        try:
            data = source.recv(1 << 20)
        except ConnectionResetError:  # it closed with an answer unread: an end as good as any
            data = b""
        if not data:
            del others[source], others[target]
            with contextlib.suppress(OSError):  # it went first
                target.shutdown(socket.SHUT_RDWR)
            return
        if data != _PING and source in clients:
            self.traffic.sent_bytes += len(data)
            self.traffic.num_round_trips += source not in asking
            asking.add(source)
        elif data != _PING:
            self.traffic.received_bytes += len(data)
            asking.discard(target)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read says so
            target.sendall(data)
