"""Starts real SGLang servers for tests, talks to them over HTTP and looks inside them.

pytest runs without SGLang: a server runs in its own pinned environment (`tests/engines`), in its
own process group. Nothing here waits without a limit: where a call takes too long, every process of
the server writes its stacks to the log, all are killed, and the error shows the end of the log.

    config = ServerConfig(model=write_llama(tmp_path / "llama"), log=tmp_path / "log")
    with SGLangServer(config) as server:
        first, second = server.generate([prompt, prompt])
        assert second.output_ids == first.output_ids
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

REPOSITORY = Path(__file__).resolve().parents[2]
# SGLang says this when its engine is ready; its port opens a little before or after.
READY_LINE = b"The server is fired up and ready to roll!"
ENVIRONMENT = {
    # Byte code is kept: without it an engine takes three times as long to start.
    "PYTHONDONTWRITEBYTECODE": "",
    # The models are tiny; threads would only wait for each other.
    "OMP_NUM_THREADS": "1",
}
START_TIMEOUT_S = 240.0
CALL_TIMEOUT_S = 120.0

DEFAULT_ENGINE = "sglang-0.5.18"

CacheName = Literal["none", "radix", "radixkv"]


class ServerError(Exception):
    """The server died, hung or answered with an error; the end of its log comes with it."""


def engine_python(name: str) -> Path:
    """The interpreter of a pinned environment, made or brought up to date if needed."""
    setup = REPOSITORY / "tests" / "engines" / "setup.py"
    done = subprocess.run([sys.executable, setup, name], capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerError(f"{setup.name} {name} failed:\n{done.stdout}{done.stderr}")
    return REPOSITORY / ".venvs" / name / "bin" / "python"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One server. What is not said here is SGLang's default, or fixed in `command`."""

    model: Path
    log: Path
    engine: str = DEFAULT_ENGINE
    cache: CacheName = "radix"
    radixkv_config: Path | None = None
    page_size: int = 1
    overlap: bool = False
    tp_size: int = 1
    device_tokens: int = 4096
    context_length: int = 2048
    chunked_prefill_tokens: int = 256
    max_running_requests: int = 4
    # SGLang attaches a storage backend for those who have this key.
    admin_key: str | None = None
    # SGLang spawns its processes; forks start in half the time. See `forking.py` of its stand-ins.
    forks: bool = True
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, python: Path, port: int) -> list[str]:
        words = [
            # -P: radixkv is what was installed, not the folder in which the tests run.
            *(str(python), "-P", "-m", "sglang.launch_server"),
            *("--model-path", str(self.model), "--skip-tokenizer-init", "--dtype", "float32"),
            *("--host", "127.0.0.1", "--port", str(port), "--skip-server-warmup"),
            *("--device", "cpu", "--attention-backend", "torch_native"),
            *("--sampling-backend", "pytorch", "--grammar-backend", "none"),
            *("--disable-cuda-graph", "--random-seed", "1"),
            *("--log-level", "info", "--log-level-http", "warning"),
            *("--page-size", str(self.page_size), "--tp-size", str(self.tp_size)),
            *("--max-total-tokens", str(self.device_tokens)),
            *("--context-length", str(self.context_length)),
            *("--chunked-prefill-size", str(self.chunked_prefill_tokens)),
            *("--max-running-requests", str(self.max_running_requests)),
        ]
        if self.admin_key is not None:
            words += ["--admin-api-key", self.admin_key]
        if not self.overlap:
            words.append("--disable-overlap-schedule")
        if self.cache == "none":
            words.append("--disable-radix-cache")
        if self.cache == "radixkv":
            words += ["--radix-cache-backend", "radixkv"]
        if self.radixkv_config is not None:
            words += ["--radixkv-config", str(self.radixkv_config)]
        return [*words, *self.options]


@dataclass(frozen=True, slots=True)
class Generation:
    """One answered request: its new tokens, and where SGLang says the prompt's KV came from."""

    rid: str
    output_ids: list[int]
    prompt_tokens: int
    cached_tokens: int
    device_tokens: int
    host_tokens: int
    storage_tokens: int
    num_retractions: int
    finish_reason: dict[str, Any]

    @staticmethod
    def from_answer(answer: dict[str, Any]) -> Generation:
        meta = answer["meta_info"]
        details = meta.get("cached_tokens_details") or {}
        return Generation(
            rid=meta["id"],
            output_ids=answer["output_ids"],
            # One that was aborted in the queue has neither.
            prompt_tokens=meta.get("prompt_tokens", 0),
            cached_tokens=meta.get("cached_tokens", 0),
            device_tokens=details.get("device", 0),
            host_tokens=details.get("host", 0),
            storage_tokens=details.get("storage") or 0,
            num_retractions=meta.get("num_retractions", 0),
            finish_reason=meta["finish_reason"],
        )


def outputs(answers: Iterable[Generation]) -> list[list[int]]:
    """The new tokens of each."""
    return [answer.output_ids for answer in answers]


def write_radixkv_config(
    folder: Path,
    *,
    memory_bytes: int,
    disk_bytes: int = 256 << 20,
    durable: str = "none",
    prefetch_deadline: str = "2s",
) -> Path:
    """A configuration with memory and disk; the disk tier lies in `folder`/disk.

    Unless durability is tested, writes count as done without the wait for a shared sync.
    """
    path = folder / "radixkv.yaml"
    disk = {"path": str(folder / "disk"), "size": f"{disk_bytes}B", "durable": durable}
    document = {
        "memory": {"size": f"{memory_bytes}B"},
        "disk": disk,
        "prefetch": {"deadline": prefetch_deadline},
    }
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def free_port() -> int:
    """A port that the system gives to nobody by itself: those above are for outgoing connections.

    (SGLang opens many between its processes; one of them would take our port while it starts.)
    """
    while True:
        port = secrets.choice(range(12_000, 30_000))
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port


class SGLangServer:
    """A running server. Leaving it as a context manager kills it, however the test ended."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        # Sums over all probes so far, of rank 0: tokens that each request gave to the forward,
        # and calls that reached the tree cache.
        self.prefilled_tokens: Counter[str] = Counter()
        self.cache_calls: Counter[str] = Counter()
        # Of those calls, the one that took longest, in seconds, less its wait for a CPU.
        self.longest_call = ("", 0.0)
        self._ready = threading.Event()
        self._gone = threading.Event()
        python = engine_python(config.engine)
        forking = {"RADIXKV_TEST_FORK": "1"} if config.forks else {}
        self._port = free_port()
        self._process = subprocess.Popen(
            [*self._with_our_death(), *config.command(python, self._port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT | forking | dict(config.environment),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._copy_log, daemon=True)
        self._reader.start()
        self._await_start()

    def __enter__(self) -> SGLangServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # Requests

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 8,
        *,
        extra_key: str | None = None,
        cache_salt: str | None = None,
        lora_path: str | None = None,
        session_params: dict[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Generation]:
        """Greedy continuations of a batch, sent as one call; the scheduler sees them together."""
        body = self._generate_body(prompts, max_new_tokens)
        names = {"extra_key": extra_key, "cache_salt": cache_salt, "lora_path": lora_path}
        for name, value in names.items():
            if value is not None:
                body[name] = [value] * len(prompts)
        if session_params is not None:
            body["session_params"] = session_params
        answers = self.call("POST", "/generate", body, timeout_s)
        return [Generation.from_answer(answer) for answer in answers]

    def generate_each(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 8,
        *,
        abort_after_s: float | None = None,
    ) -> list[Generation]:
        """As `generate`, but a request that fails leaves the others their answers: it has its
        error in `finish_reason`. So has one that runs longer than `abort_after_s`."""
        body = self._generate_body(prompts, max_new_tokens) | {"stream": True}
        with contextlib.ExitStack() as stack:
            if abort_after_s is not None:
                abort = threading.Timer(abort_after_s, lambda: [*map(self.abort, body["rid"])])
                abort.start()
                stack.callback(abort.join)
                stack.callback(abort.cancel)
            events = self.call("POST", "/generate", body).splitlines()
        last: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.startswith("data: {"):
                answer = json.loads(event.removeprefix("data: "))
                last[answer["meta_info"]["id"]] = answer
        return [Generation.from_answer(last[rid]) for rid in body["rid"]]

    @staticmethod
    def _generate_body(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> dict[str, Any]:
        sampling = {"temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True}
        return {
            "rid": [uuid.uuid4().hex for _ in prompts],
            "input_ids": [list(prompt) for prompt in prompts],
            "sampling_params": sampling,
        }

    def probe(self) -> list[dict[str, Any]]:
        """The state of each rank's scheduler, as `probe.py` of `tests/sglang_cpu` shows it."""
        states: list[dict[str, Any]]
        states = self.call("GET", "/server_info")["internal_states"][0]["probe"]
        self.prefilled_tokens.update(states[0]["prefilled_tokens"])
        self.cache_calls.update(states[0]["cache_calls"])
        name, took_s = states[0]["longest_call"]
        if took_s > self.longest_call[1]:
            self.longest_call = (name, took_s)
        return states

    def wait_until_idle(self, timeout_s: float = CALL_TIMEOUT_S) -> list[dict[str, Any]]:
        """Probes until no rank has a request, nor radixkv a transfer in flight."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = self.probe()
            ours = [state.get(place, {}) for state in states for place in ("radixkv", "storage")]
            num_in_flight = sum(ours_at.get("in_flight", 0) for ours_at in ours)
            if all(state["idle"] for state in states) and num_in_flight == 0:
                return states
            if time.monotonic() > deadline:
                self._fail(f"not idle after {timeout_s} s: {states}")

    def flush_cache(self) -> None:
        """Empties the device cache, as soon as SGLang has noted that what it answered is over."""
        self.call("POST", "/flush_cache?timeout=10")

    def update_weights(self, model: Path, *, flush: bool = True) -> None:
        """Serve those of another folder, as soon as SGLang has noted that what it answered is over:
        before, it would end itself."""
        self.wait_until_idle()
        body = {"model_path": str(model), "flush_cache": flush}
        assert self.call("POST", "/update_weights_from_disk", body)["success"]

    def abort(self, rid: str) -> None:
        self.call("POST", "/abort_request", {"rid": rid})

    def call(
        self, method: str, path: str, body: Any = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """One HTTP call; gives the decoded JSON, or the text where it is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"}
            if self.config.admin_key is not None:
                headers["Authorization"] = f"Bearer {self.config.admin_key}"
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except TimeoutError:
            self._fail(f"{method} {path}: no answer in {timeout_s} s")
        except (ConnectionError, http.client.HTTPException) as error:
            self._gone.wait(15.0)  # A dying server first writes to its log what went wrong.
            self._fail(f"{method} {path}: {error!r}")
        finally:
            connection.close()
        if response.status != 200:
            raise ServerError(f"{method} {path}: {response.status} {text}\n{self.log_tail(20)}")
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text

    # Life and death

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The server's first process."""
        return self._process.pid

    def close(self) -> None:
        """Asks the server to end, as an operator does, and sees to it that all of it is gone."""
        if self._process.poll() is None:
            self._process.terminate()
            self._gone.wait(30.0)
        self.kill()

    def kill(self) -> None:
        """kill -9 to every process of the server at once; returns when they are gone."""
        with contextlib.suppress(ProcessLookupError):  # All are gone already.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if not self._gone.wait(30.0):
            raise ServerError(f"processes survived kill -9\n{self.log_tail(20)}")
        self._reader.join()

    def log_tail(self, num_lines: int = 60) -> str:
        lines = self.config.log.read_text(errors="replace").splitlines()
        return "\n".join([f"--- end of {self.config.log}", *lines[-num_lines:]])

    @staticmethod
    def _with_our_death() -> list[str]:
        """Where util-linux has it: the server dies when this process is killed."""
        setpriv = shutil.which("setpriv")
        return [setpriv, "--pdeathsig", "KILL"] if setpriv else []

    def _copy_log(self) -> None:
        """Copies the server's output to its log. It ends when the last process has ended."""
        assert self._process.stdout is not None
        self.config.log.parent.mkdir(parents=True, exist_ok=True)
        with self.config.log.open("ab", buffering=0) as log, self._process.stdout as output:
            for line in output:
                log.write(line)
                if READY_LINE in line:
                    self._ready.set()
        self._gone.set()
        self._ready.set()

    def _await_start(self) -> None:
        if not self._ready.wait(START_TIMEOUT_S):
            self._fail(f"not ready after {START_TIMEOUT_S} s")
        deadline = time.monotonic() + 30.0
        while not self._gone.is_set() and time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self._port), timeout=10).close()
                return
            self._gone.wait(0.05)
        self._fail("the server died while starting")

    def _fail(self, what: str) -> None:
        """Shows where every process stands, kills them and raises."""
        if not self._gone.is_set():
            os.killpg(self._process.pid, signal.SIGUSR2)  # faulthandler: stacks go to the log
            self._gone.wait(3.0)
        self.kill()
        raise ServerError(f"{self.log_tail(200)}\n{what}")
