"""What SGLang's LoRA adapters are known by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from sglang_models import write_adapter

from radixkv import RankGroup
from sglang_ext.identity import adapter_identities


def identity(folder: Path) -> str:
    """Of an adapter that SGLang named by what the user called it and where it lies."""
    reference = SimpleNamespace(lora_id="name and path", lora_path=str(folder))
    return adapter_identities([reference], RankGroup())["name and path"]


def test_an_adapter_is_the_same_wherever_it_lies(tmp_path):
    folders = [write_adapter(tmp_path / name, seed=1) for name in ("here", "there")]

    assert identity(folders[0]) == identity(folders[1]) == identity(folders[0])


@pytest.mark.parametrize("change", ["weights", "settings"])
def test_another_adapter_in_its_place_is_another(tmp_path, change):
    folder = write_adapter(tmp_path, seed=1)
    before = identity(folder)

    if change == "weights":
        write_adapter(folder, seed=2)
    else:
        settings = folder / "adapter_config.json"
        settings.write_text(settings.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))

    assert identity(folder) != before


@pytest.mark.parametrize("spoil", ["no weights", "not text", "no folder"])
def test_one_that_cannot_be_read_is_never_the_same(tmp_path, spoil):
    folder = write_adapter(tmp_path / "adapter", seed=1)
    if spoil == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    elif spoil == "not text":
        (folder / "adapter_config.json").write_bytes(b"\xff\xfe\xff")
    else:
        folder = folder / "adapter_config.json"

    assert identity(folder) != identity(folder)
