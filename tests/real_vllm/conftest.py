"""The engine process, the models and the expected answers that the tests of this folder share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload, make_workload
from sglang_models import write_llama
from vllm_harness import VllmHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models by the kind of attention that they have."""
    folder = tmp_path_factory.mktemp("models")
    return {"mha": write_llama(folder / "llama")}


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """One process for all engines that live in it, one after the other: vLLM is imported once."""
    with VllmHost(tmp_path_factory.mktemp("vllm") / "log") as host:
        yield host


@pytest.fixture(scope="session")
def workload_for(models: dict[str, Path], host: VllmHost) -> Callable[[str, str], Workload]:
    """Prompts, with what a model answers in a dtype when there is no connector."""

    @functools.cache
    def make(attention: str, dtype: str) -> Workload:
        host.start(models[attention], dtype=dtype, enable_prefix_caching=False)

        def answer(prompts: list[Ids]) -> list[Ids]:
            given = host.generate(prompts=prompts, max_tokens=MAX_NEW_TOKENS)
            return [each["ids"] for each in given]

        return make_workload(answer)

    return make
