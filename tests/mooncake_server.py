"""A real Mooncake store for tests: a master, and a process that keeps objects."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis_server import free_port
from wire import Wire

from radixkv.tiers import mooncake

_OWNER = """
import sys
from mooncake.store import MooncakeDistributedStore
host, master, segment_bytes = sys.argv[1:]
store = MooncakeDistributedStore()
code = store.setup(host, "P2PHANDSHAKE", int(segment_bytes), 1 << 24, "tcp", "", master)
print("ready" if code == 0 else code, flush=True)
sys.stdin.read()
"""
_CLIENT_TTL_S = 2  # after which an owner that says nothing is dead


def folder_for_import(folder: Path) -> Path:
    """Mooncake's client, and nothing else, for the PYTHONPATH of an interpreter without it."""
    package = Path(mooncake.import_store().__file__).parent
    for part in package.parent.glob("mooncake*"):
        (folder / part.name).symlink_to(part)
    return folder


class MooncakeServer:
    """Runs until `close`.

    Args:
        folder: For the logs.
        segment_bytes: How much the owner keeps; 0 for no owner.
        wire: Where there is one, it runs at the far end.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = 0, wire: Wire | None = None) -> None:
        self._folder = folder
        self._wire = wire
        self._segment_bytes = segment_bytes
        self._host = "127.0.0.1" if wire is None else wire.far_address
        self._port = free_port()
        self._metrics_port = free_port()
        self.start()

    @property
    def url(self) -> str:
        near = "127.0.0.1" if self._wire is None else self._wire.near_address
        return f"mooncake://{self._host}:{self._port}/?host={near}"

    def names(self) -> list[str]:
        """Of all objects."""
        url = f"http://{self._host}:{self._metrics_port}/get_all_keys"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode().split()

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Mooncake's own, which may do everything."""
        store = mooncake.import_store().MooncakeDistributedStore()
        master = f"{self._host}:{self._port}"
        assert store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 1 << 26, "tcp", "", master) == 0
        try:
            yield store
        finally:
            store.close()

    def start_master(self) -> None:
        """Begin to know where objects are; of those before nothing is known."""
        package = Path(mooncake.import_store().__file__).parent
        words = [str(package / "mooncake_master"), f"--rpc_address={self._host}"]
        words += [f"--rpc_port={self._port}", f"--metrics_host={self._host}"]
        words += [f"--metrics_port={self._metrics_port}", "--logtostderr"]
        words += [f"--client_ttl={_CLIENT_TTL_S}"]
        self.master = self._start(words, "master")

    def start_owner(self) -> None:
        """Begin to keep objects; nothing is there."""
        master, segment = f"{self._host}:{self._port}", str(self._segment_bytes)
        self.owner = self._start(
            [sys.executable, "-c", _OWNER, self._host, master, segment], "owner"
        )
        assert self.owner.stdout is not None
        assert self.owner.stdout.readline() == b"ready\n"

    def start(self) -> None:
        """All of it, empty."""
        self.start_master()
        if self._segment_bytes:
            self.start_owner()

    def kill(self) -> None:
        """kill -9 to all of it."""
        for process in self._processes():
            kill(process)

    def stop(self) -> None:
        """All of it hangs."""
        for process in self._processes():
            stop(process)

    def close(self) -> None:
        """The end."""
        self.kill()

    def _processes(self) -> list[subprocess.Popen[bytes]]:
        return [self.master, *([self.owner] if self._segment_bytes else [])]

    def _start(self, words: list[str], name: str) -> subprocess.Popen[bytes]:
        command = words if self._wire is None else self._wire.at_far_end(words)
        with (self._folder / f"{name}.log").open("ab") as log:
            pipe = subprocess.PIPE
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log)


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and wait for the end."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """It hangs."""
    process.send_signal(signal.SIGSTOP)


def go_on(process: subprocess.Popen[bytes]) -> None:
    """It does not hang any more."""
    process.send_signal(signal.SIGCONT)
