"""Servers and models that the tests of this folder share. Everything here needs an engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from sglang_models import write_deepseek, write_llama


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models by the kind of attention that they have."""
    folder = tmp_path_factory.mktemp("models")
    return {"mha": write_llama(folder / "llama"), "mla": write_deepseek(folder / "deepseek")}
