"""The compose files name what is there, and radixkv takes the settings in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from radixkv.config import CacheConfig

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "examples" / "compose"
VALUES = {"MODEL": "some/model", "HOST": "this-host"}  # those that have no default


def with_defaults(text: str) -> str:
    """As docker compose fills it in for somebody who names what has to be named."""

    def fill(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(":")
        return default[1:] if default.startswith("-") else VALUES[name]

    return re.sub(r"\$\{([^}]+)\}", fill, text)


@pytest.mark.parametrize("name", ["redis.yaml", "mooncake.yaml"])
def test_settings_of_a_compose_file_are_taken(name):
    document = yaml.safe_load(with_defaults((FOLDER / name).read_text()))
    settings = yaml.safe_load(document["configs"]["radixkv.yaml"]["content"])

    config = CacheConfig.from_mapping(settings)

    assert len(config.remotes) == 1
    for service in document["services"].values():
        if "build" in service:
            context = (FOLDER / service["build"]["context"]).resolve()
            assert context == REPOSITORY
            assert (context / service["build"]["dockerfile"]).is_file()
