"""Starts an engine with or without radixkv, and sends it prompts over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from .engines import Answer, Engine, Event, Metrics, Room
from .errors import DemoError
from .model import Model
from .workload import Ids

ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",  # without byte code an engine takes three times as long to start
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other are slow on a busy machine
}
START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 300.0
COUNT_TIMEOUT_S = 10.0
PROMPT_TOKENS = "vllm:prompt_tokens_total"


class Server:
    """One server on this machine's CPU; leaving the context ends it."""

    def __init__(
        self, engine: Engine, model: Model, room: Room, log: Path, *, with_radixkv: bool
    ) -> None:
        self._engine = engine
        self._model = model
        self._port = free_port()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                engine.command(model, room, self._port, with_radixkv=with_radixkv),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT | engine.environment(room),
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        try:
            self._await_start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self._kill()

    def ask(self, prompt: Ids, max_new_tokens: int) -> Answer:
        """Sends a prompt and follows the answer token by token."""
        path, body = self._engine.request(self._model, prompt, max_new_tokens)
        before = self._metrics()
        started = time.monotonic()
        first_token_s = 0.0
        events: list[Event] = []
        with self._talk() as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            for line in connection.getresponse():
                if not line.startswith(b"data: {"):
                    continue
                first_token_s = first_token_s or time.monotonic() - started
                events.append(json.loads(line.removeprefix(b"data: ")))
        if not events:
            raise DemoError(f"no answer\n{self._log_tail()}")
        grown = self._growth(before, len(prompt))
        return self._engine.read(events, prompt, first_token_s, grown)

    def _growth(self, before: Metrics, num_tokens: int) -> Metrics:
        """How much each counter has grown, once all of the prompt's tokens are counted."""
        deadline = time.monotonic() + COUNT_TIMEOUT_S
        while True:
            now = self._metrics()
            grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
            counted = sum(value for name, value in grown.items() if name.startswith(PROMPT_TOKENS))
            if not now or counted >= num_tokens:
                return grown
            if time.monotonic() > deadline:
                raise DemoError(f"{counted:.0f} of {num_tokens} tokens were counted")
            time.sleep(0.02)

    def _metrics(self) -> Metrics:
        """The server's counters; empty where they are not needed."""
        if self._engine.metrics_path is None:
            return {}
        with self._talk() as connection:
            connection.request("GET", self._engine.metrics_path)
            lines = connection.getresponse().read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    @contextlib.contextmanager
    def _talk(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT_S)
        try:
            yield connection
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"no answer ({error!r})\n{self._log_tail()}") from error
        finally:
            connection.close()

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DemoError(f"the server did not start\n{self._log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == http.client.OK:
                    return
            time.sleep(0.2)
        raise DemoError(f"the server is not up after {START_TIMEOUT_S:.0f} s\n{self._log_tail()}")

    def _kill(self) -> None:
        """Ends whatever is left of the server's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join([f"The end of {self._log}:", *lines[-25:]])


def free_port() -> int:
    """A port below those that the system hands out for outgoing connections."""
    while True:
        port = secrets.choice(range(12_000, 30_000))
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
