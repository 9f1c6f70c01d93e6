"""vLLM with radixkv: one flag, and a restart that does not cost the prompts.

    python examples/vllm_serve.py MODEL [--disk FOLDER] [any flag of vLLM's server …]

Starts vLLM's server, asks it the same long prompt twice, restarts it and asks once more: then the
prompt comes from the disk instead of being computed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

START_TIMEOUT_S = 600.0
PROMPT = [3 + i * i % 241 for i in range(900)]  # token ids that any vocabulary has


def transfer_config(disk: str, size: str = "4GiB", memory: str = "1GiB") -> dict[str, Any]:
    """What goes behind --kv-transfer-config. Only the first two lines are needed."""
    return {
        "kv_connector": "RadixKVConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "memory": {"size": memory},
            "disk": {"path": disk, "size": size},
        },
    }


@contextlib.contextmanager
def serving(
    model: str,
    transfer: Mapping[str, Any],
    *flags: str,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    log: str | None = None,
) -> Iterator[str]:
    """The address of a vLLM server, while it runs; `log` gets what it prints."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # -P: what is installed is served, not what lies in the current folder.
    command = [python, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--kv-transfer-config", json.dumps(transfer), *flags]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(log, "ab")) if log else sys.stderr
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        await_health(address, server)
        yield address
        server.terminate()
        server.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def await_health(address: str, server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: It ended, or did not come up in time.
    """
    pause = threading.Event()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            fetch(f"{address}/health")
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"vLLM did not come up (exit code {server.poll()})")
        pause.wait(0.1)


def fetch(url: str, body: Any = None) -> str:
    """The text of an answer; with a body it is a POST."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = answer.read().decode()
        return text


def complete(address: str, model: str, prompt: list[int], max_tokens: int = 16) -> list[int]:
    """The token ids that follow a prompt."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    (choice,) = json.loads(fetch(f"{address}/v1/completions", body))["choices"]
    ids: list[int] = choice["token_ids"]
    return ids


def metric(address: str, pattern: str) -> float:
    """The sum over the lines of /metrics that begin with a pattern."""
    lines = fetch(f"{address}/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))


def await_metric(address: str, pattern: str, least: float, timeout_s: float = 30.0) -> bool:
    """Whether a metric reaches a value in time."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while metric(address, pattern) < least:
        if time.monotonic() > deadline:
            return False
        pause.wait(0.1)
    return True


def ask(address: str, model: str, what: str) -> list[int]:
    """Ask, and print how long it took and how much of the prompt was loaded."""
    loaded = metric(address, "vllm:radixkv_loaded_total")
    started = time.monotonic()
    ids = complete(address, model, PROMPT)
    seconds = time.monotonic() - started
    loaded = metric(address, "vllm:radixkv_loaded_total") - loaded
    print(f"{what:20} {seconds:6.2f} s   {loaded:5.0f} of {len(PROMPT)} tokens loaded by radixkv")
    return ids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--disk", help="folder for the disk tier; by default one that goes again")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        transfer = transfer_config(arguments.disk or folder)
        print("starting vLLM …")
        with serving(arguments.model, transfer, *flags) as address:
            first = ask(address, arguments.model, "the first time")
            ask(address, arguments.model, "again")
            await_metric(address, "vllm:radixkv_spilled_total", len(PROMPT) // 2)
        print("restarting it …")
        with serving(arguments.model, transfer, *flags) as address:
            second = ask(address, arguments.model, "after the restart")
    print("the answers are equal" if first == second else "THE ANSWERS DIFFER")
    return 0 if first == second else 1


if __name__ == "__main__":
    sys.exit(main())
