"""Servers and models that the tests of this folder share. Everything here needs an engine."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from prompts import Workload, make_workload
from sglang_harness import DEFAULT_ENGINE, ServerConfig, SGLangServer
from sglang_models import write_deepseek, write_llama
from workload_run import KV_AUDIT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.engine)
            # For the rows that `--rows` keeps.
            item.user_properties.append(("sglang", version_of(item)))


def version_of(item: pytest.Item) -> str:
    """The release of SGLang that a test runs."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters.get("version", DEFAULT_ENGINE.removeprefix("sglang-")))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models by the kind of attention that they have."""
    folder = tmp_path_factory.mktemp("models")
    return {"mha": write_llama(folder / "llama"), "mla": write_deepseek(folder / "deepseek")}


@pytest.fixture(scope="session")
def folder_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same one in all processes that share out the tests of a run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def workload_for(models: dict[str, Path], folder_of_all: Path) -> Callable[[str], Workload]:
    """Gives the prompts for a kind of attention, with what a server without cache answers: one
    server for all processes."""

    @functools.cache
    def make(attention: str) -> Workload:
        folder = folder_of_all / f"reference-{attention}"
        folder.mkdir(exist_ok=True)
        kept = folder / "workload.pickle"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_bytes(pickle.dumps(answered(models[attention], folder)))
        workload: Workload = pickle.loads(kept.read_bytes())
        return workload

    return make


def answered(model: Path, folder: Path) -> Workload:
    """The workload, answered by a server that writes down its KV in `folder`."""
    config = ServerConfig(
        model=model,
        log=folder / "server.log",
        cache="none",
        device_tokens=16384,
        max_running_requests=16,
        environment={KV_AUDIT: f"write:{folder}"},
    )
    with SGLangServer(config) as reference:
        return dataclasses.replace(make_workload(reference), right_kv=folder)
