"""A real redis-server for tests: on a socket of this host and on a port of the loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from wire import Wire

from radixkv.config import CacheConfig

START_TIMEOUT_S = 60.0


def free_port() -> int:
    """One that the system gives to nobody by itself: those above are for outgoing connections."""
    while True:
        port = secrets.choice(range(12_000, 30_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """Runs until `close`. It keeps nothing on disk: restarted, it is empty.

    Args:
        folder: For its socket and its log.
        options: More words for its command line, such as ("--maxmemory", "1mb").
        wire: Where there is one, its port is at the far end, for all but `client`.
    """

    def __init__(self, folder: Path, *options: str, wire: Wire | None = None) -> None:
        self._wire = wire
        self._address = "127.0.0.1" if wire is None else wire.far_address
        self.socket = folder / "redis.sock"
        self.port = free_port()
        self._folder = folder
        self._log = folder / "redis.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def url(self) -> str:
        """As those have it who are at the other end of the wire, if there is one."""
        return self.unix_url if self._wire is None else self.tcp_url

    @property
    def tcp_url(self) -> str:
        return f"redis://{self._address}:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """As an operator has one: full access."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def objects(self) -> set[bytes]:
        """The names of what has KV: all but the rungs."""
        return {name for name in self.client.scan_iter() if not name.endswith(b"~")}

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "the tests need redis-server (Debian, Ubuntu: apt-get install redis-server)"
        words = [program, "--port", str(self.port), "--bind", self._address, "--save", ""]
        words += ["--appendonly", "no", "--unixsocket", str(self.socket)]
        words += ["--dir", str(self._folder), *self._options]
        # That of a wire is nobody else's.
        words += [] if self._wire is None else ["--protected-mode", "no"]
        # A sanitizer's runtime is for this process alone.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        with self._log.open("ab") as log:
            command = words if self._wire is None else self._wire.at_far_end(words)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"Ready to accept connections" not in self._log.read_bytes():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.002)
        self._log.write_bytes(b"")

    def kill(self) -> None:
        """kill -9: everything in it is lost."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """It hangs: connections are taken by the kernel, nobody answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@contextlib.contextmanager
def running_sentinel(folder: Path, *lines: str) -> Iterator[int]:
    """With these lines of configuration; gives its port."""
    port = free_port()
    config = folder / f"sentinel{port}.conf"
    config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", *lines]))
    words = ["redis-server", str(config), "--sentinel"]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as sentinel:
        try:
            assert sentinel.stdout is not None
            for line in sentinel.stdout:
                if b"Sentinel ID is" in line:
                    break
            yield port
        finally:
            sentinel.kill()


def running_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """For fixtures."""
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.close()


def remote_config(*urls: str, **settings: object) -> CacheConfig:
    """Small chunks, little memory, these servers."""
    document: dict[str, object] = {
        "chunk_tokens": 16,
        "memory": {"size": "64MiB"},
        "prefetch": {"deadline": "20s"},
        "remotes": list(urls),
        "metrics": False,
    }
    return CacheConfig.from_mapping(document | settings)
