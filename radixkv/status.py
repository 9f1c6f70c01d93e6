"""What a cache is doing, told to whoever asks on this machine as the same user: `radixkv top`.

    StatusServer(read)      in the engine's process: a thread that waits on a Unix socket
    find_servers()          anywhere: the sockets of those that live
    ask(path)               a status, as JSON

A socket lies in a folder that only its user may enter, so nobody else learns what is asked there.
Nothing is counted or computed unless somebody asks.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TIMEOUT_S = 5.0

Status = dict[str, Any]
_log = logging.getLogger(__name__)


def folder() -> Path:
    """Where this user's sockets are."""
    return Path(tempfile.gettempdir()) / f"radixkv-{os.getuid()}"


class StatusServer:
    """Answers on a socket of its own until it is closed.

    Args:
        read: Gives the status, on the server's thread.

    Attributes:
        path: Of the socket.

    Raises:
        OSError: There is no place for the socket, or somebody else has it.
    """

    def __init__(self, read: Callable[[], Status]) -> None:
        own = folder()
        own.mkdir(mode=0o700, exist_ok=True)
        if own.stat().st_uid != os.getuid() or own.stat().st_mode & 0o077:
            raise PermissionError(f"{own}: expected a folder that only this user may enter")
        find_servers()  # removes what killed ones left: SGLang kills its scheduler at every end
        self.path = own / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        self._read = read
        self._socket = socket.socket(socket.AF_UNIX)
        unborn = self.path.with_suffix(".new")  # whoever finds it refused would remove it
        self._socket.bind(str(unborn))
        self._socket.listen()
        unborn.rename(self.path)
        self._thread = threading.Thread(target=self._serve, name="radixkv-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. May be called twice; in a fork of the process it does nothing."""
        if self._socket.fileno() < 0 or pid_of(self.path) != os.getpid():
            return
        self.path.unlink(missing_ok=True)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                asker, _ = self._socket.accept()
            except OSError:
                return
            with asker:
                try:
                    asker.settimeout(_TIMEOUT_S)
                    if asker.recv(1):
                        asker.sendall(json.dumps(self._read()).encode())
                except OSError as error:
                    _log.debug("status: whoever asked has gone: %s", error)


def find_servers() -> list[Path]:
    """Sockets of this user that somebody listens on, by the id of the process. What processes left
    that were killed is removed: their ids may be another's by now."""
    return [path for path in sorted(folder().glob("[0-9]*-*.sock")) if _is_heard(path)]


def pid_of(path: Path) -> int:
    """Whose socket it is."""
    return int(path.name.partition("-")[0])


def ask(path: Path) -> Status:
    """The status of the cache behind a socket.

    Raises:
        OSError: Nobody answers.
    """
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(_TIMEOUT_S)
        asker.connect(str(path))
        asker.sendall(b"?")
        parts = []
        while part := asker.recv(1 << 16):
            parts.append(part)
    try:
        status: Status = json.loads(b"".join(parts))
    except ValueError as error:
        raise ConnectionError(f"{path}: closed before its answer was whole") from error
    return status


def _is_heard(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(_TIMEOUT_S)
        try:
            asker.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return False
        except FileNotFoundError:
            return False
        except (TimeoutError, BlockingIOError):
            pass  # a process that was stopped; the latter when many have asked it meanwhile
    return True
