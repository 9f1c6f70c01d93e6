"""Starts SGLang with or without radixkv, and sends it prompts over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .errors import DemoError
from .model import Model
from .workload import Ids

ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",  # without byte code an engine takes three times as long to start
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other are slow on a busy machine
}
START_TIMEOUT_S = 300.0
ANSWER_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt, and where the KV of the prompt came from."""

    ids: Ids
    first_token_s: float
    prompt_tokens: int
    device_tokens: int
    memory_tokens: int
    disk_tokens: int

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.device_tokens - self.memory_tokens - self.disk_tokens


class Server:
    """One SGLang server on this machine's CPU; leaving the context ends it."""

    def __init__(
        self, model: Model, device_tokens: int, log: Path, radixkv_config: Path | None
    ) -> None:
        self._port = free_port()
        self._log = log
        command = [
            *(sys.executable, "-P", "-m", "sglang.launch_server"),
            *("--model-path", str(model.folder), "--skip-tokenizer-init", "--dtype", "float32"),
            *("--host", "127.0.0.1", "--port", str(self._port), "--skip-server-warmup"),
            *("--device", "cpu", "--attention-backend", "torch_native"),
            *("--sampling-backend", "pytorch", "--grammar-backend", "none"),
            *("--disable-cuda-graph", "--random-seed", "1", "--max-running-requests", "2"),
            *("--max-total-tokens", str(device_tokens), "--chunked-prefill-size", "2048"),
        ]
        if radixkv_config is not None:
            # All that it takes:
            command += ["--radix-cache-backend", "radixkv"]
            command += ["--radixkv-config", str(radixkv_config)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
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
        sampling = {"temperature": 0, "max_new_tokens": max_new_tokens}
        body = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_TIMEOUT_S)
        started = time.monotonic()
        first_token_s = 0.0
        event: dict[str, object] = {}
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/generate", json.dumps(body), headers)
            for line in connection.getresponse():
                if not line.startswith(b"data: {"):
                    continue
                first_token_s = first_token_s or time.monotonic() - started
                event = json.loads(line.removeprefix(b"data: "))
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"no answer ({error!r})\n{self._log_tail()}") from error
        finally:
            connection.close()
        return read_answer(event, first_token_s)

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


def read_answer(event: dict[str, object], first_token_s: float) -> Answer:
    """Reads the last event of a stream, which holds the whole answer."""
    meta = event.get("meta_info")
    ids = event.get("output_ids")
    if not isinstance(meta, dict) or not isinstance(ids, list):
        raise DemoError(f"the server answered with {event}")
    details = meta.get("cached_tokens_details") or {}
    return Answer(
        ids=ids,
        first_token_s=first_token_s,
        prompt_tokens=meta["prompt_tokens"],
        device_tokens=details.get("device", 0),
        memory_tokens=details.get("host", 0),
        disk_tokens=details.get("storage", 0),
    )


def free_port() -> int:
    """A port below those that the system hands out for outgoing connections."""
    while True:
        port = secrets.choice(range(12_000, 30_000))
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
