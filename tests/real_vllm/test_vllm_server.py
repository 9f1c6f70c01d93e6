"""The API server as users start it: one flag, and after a restart the disk answers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conversations import MAX_NEW_TOKENS, Workload
from sglang_harness import REPOSITORY, engine_python
from vllm_harness import ENVIRONMENT, VERSION, connector

START_TIMEOUT_S = 240.0


@contextlib.contextmanager
def serving(model: Path, log: Path, *flags: str) -> Iterator[str]:
    """A server's address, while it runs."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [engine_python(VERSION), "-m", "vllm.entrypoints.openai.api_server"]
    options = ["--model", model, "--port", port, "--host", "127.0.0.1", *flags]
    options += ["--skip-tokenizer-init", "--enforce-eager", "--dtype", "float32"]
    options += ["--block-size", 32, "--max-model-len", 1024]
    with log.open("ab") as output:
        server = subprocess.Popen(
            [*map(str, command), *map(str, options)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": "1"},
            cwd=REPOSITORY,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        await_health(address, server, log)
        yield address
        server.terminate()
        assert server.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def await_health(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            get(f"{address}/health")
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise AssertionError("\n".join(log.read_text(errors="replace").splitlines()[-60:]))
        pause.wait(0.1)


def get(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as answer:
        return answer.read().decode()


def complete(address: str, model: Path, prompt: list[int]) -> list[int]:
    body = {
        "model": str(model),
        "prompt": prompt,
        "max_tokens": MAX_NEW_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    (choice,) = json.loads(get(f"{address}/v1/completions", body))["choices"]
    return choice["token_ids"]


def metric(address: str, name: str) -> float:
    """The sum over the lines of a metric whose name and labels begin with `name`."""
    lines = get(f"{address}/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(name, line))


def await_metric(address: str, name: str, least: float) -> None:
    """vLLM shows what an idle engine does a little later."""
    pause = threading.Event()
    deadline = time.monotonic() + 30
    while metric(address, name) < least:
        assert time.monotonic() < deadline, get(f"{address}/metrics")
        pause.wait(0.1)


def test_a_server_finds_after_its_restart_what_it_had(
    models: dict[str, Path], workload_for: Callable[..., Workload], tmp_path: Path
) -> None:
    workload = workload_for("mha", "float32")
    model, log = models["mha"], tmp_path / "log"
    flags = ("--kv-transfer-config", json.dumps(connector(disk=tmp_path / "kv")))
    kept = len(workload.first[2]) // 32 * 32

    with serving(model, log, *flags) as address:
        assert complete(address, model, workload.first[2]) == workload.first_answers[2]
        await_metric(address, "vllm:radixkv_spilled_total", kept)

    with serving(model, log, *flags) as address:
        assert complete(address, model, workload.second[2]) == workload.second_answers[2]
        assert metric(address, "vllm:external_prefix_cache_hits_total") >= kept
        assert metric(address, "vllm:radixkv_loads_failed_total") == 0
