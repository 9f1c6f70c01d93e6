"""What SGLang's LoRA adapters, and weights that come while it runs, are known by."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from sglang_models import LLAMA_CONFIG, llama_weights, write_adapter, write_model

from radixkv import CacheConfig, KVLayout, Namespace, RankGroup
from sglang_ext.identity import (
    adapter_identities,
    engine_namespace,
    new_weights,
    tensor_names,
    tensors_at_start,
)


def identity(folder: Path, began_s: float = math.inf) -> str:
    """Of an adapter that SGLang named by what the user called it and where it lies."""
    reference = SimpleNamespace(lora_id="name and path", lora_path=str(folder))
    return adapter_identities([reference], RankGroup(), began_s)["name and path"]


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


def now_s(folder: Path) -> float:
    """Later than all that was written so far, by the clock of files, and not than what will be."""
    clock = folder / "clock"
    clock.touch()
    first_s = clock.stat().st_ctime
    while clock.stat().st_ctime == first_s:
        clock.touch()
    return clock.stat().st_ctime


@pytest.mark.parametrize("change", ["weights", "settings", "moved here", "link", "link above"])
def test_an_adapter_that_changed_since_sglang_began_is_never_the_same(tmp_path, change):
    for seed, name in enumerate(("old", "new")):
        write_adapter(tmp_path / name / "adapter", seed)
    place = tmp_path / "old" / "adapter"
    link = tmp_path / "current"
    if change == "link":
        place = link
        link.symlink_to("old/adapter")
    elif change == "link above":
        place = link / "adapter"
        link.symlink_to("old")
    began_s = now_s(tmp_path)
    as_read = identity(place, began_s)

    if change == "weights":
        write_adapter(place, seed=1)
    elif change == "settings":
        (place / "adapter_config.json").touch()
    elif change == "moved here":
        place.rename(tmp_path / "away")
        (tmp_path / "new" / "adapter").rename(place)
    else:
        target = str(link.readlink()).replace("old", "new")
        link.unlink()
        link.symlink_to(target)

    assert as_read == identity(write_adapter(tmp_path / "again", seed=0))
    assert identity(place, began_s) not in (as_read, identity(place), identity(place, began_s))


def write_weights(folder: Path, seed: int, only: str = "") -> Path:
    """A model, or those of its tensors whose names contain a text."""
    weights = llama_weights(LLAMA_CONFIG, seed).items()
    return write_model(folder, LLAMA_CONFIG, {k: v for k, v in weights if only in k})


def test_whole_weights_are_known_by_their_folder_and_a_part_by_what_it_lies_upon_too(tmp_path):
    whole, other = (write_weights(tmp_path / name, seed) for seed, name in enumerate("wo"))
    first, second = (write_weights(tmp_path / f"layer {n}", 7, f"layers.{n}.") for n in (0, 1))
    start = Namespace(model="m", layout_digest=b"")
    tensors = tensor_names(str(whole))

    def after(*updates: Path | None) -> bytes:
        space = start
        for number, folder in enumerate(updates):
            path = folder and str(folder)
            space = new_weights(space, path, f"nonce {number}", tensors)
        return space.digest()

    assert after(other, whole) == after(None, whole) == after(first, whole) == after(whole)
    assert after(whole, first) == after(first, whole, first)
    parts = [(first,), (second,), (first, second), (second, first), (whole, first)]
    drawn = [(None,), (None, first), (first, None), (first, None, second)]
    assert len({after(*updates) for updates in [*parts, *drawn, ()]}) == 10


@pytest.mark.parametrize("spoil", ["no file", "no header", "cut short"])
def test_weights_that_cannot_be_read_are_never_taken_for_whole(tmp_path, spoil):
    file = write_weights(tmp_path, seed=1) / "model.safetensors"
    if spoil == "no file":
        file.unlink()
    else:
        file.write_bytes(b"\xff" * 99 if spoil == "no header" else file.read_bytes()[:99])

    assert tensor_names(str(tmp_path)) == frozenset()


@pytest.mark.parametrize("dtype", ["auto", "fp8"])  # of the KV: as it is, and not
def test_a_configuration_in_place_of_the_models_own_counts(tmp_path, dtype):
    folder = write_weights(tmp_path, seed=1)
    (folder / "other.json").write_text("{}")
    arguments = {"model_path": str(folder), "kv_cache_dtype": dtype, "load_format": "auto"}

    def digest(config: str | None) -> bytes:
        given = Arguments(arguments | {"decrypted_config_file": config})
        layout = KVLayout(num_layers=1, num_kv=2, row_bytes=64, dtype="float32")
        return engine_namespace(given, layout, CacheConfig(), RankGroup(), math.inf).digest()

    plain, other = digest(None), digest("other.json")
    (folder / "other.json").write_text('{"rope_theta": 500}')

    assert len({plain, digest(None), other, digest("other.json")}) == 3


@pytest.mark.parametrize("dtype", ["auto", "fp8"])
def test_a_model_that_changed_since_sglang_began_is_never_the_same(tmp_path, dtype):
    folder = write_weights(tmp_path / "model", seed=1)
    arguments = {"model_path": str(folder), "kv_cache_dtype": dtype, "load_format": "auto"}
    given = Arguments(arguments)

    def digest(began_s: float) -> bytes:
        layout = KVLayout(num_layers=1, num_kv=2, row_bytes=64, dtype="float32")
        return engine_namespace(given, layout, CacheConfig(), RankGroup(), began_s).digest()

    began_s = now_s(tmp_path)
    names = tensors_at_start(given, began_s)
    (folder / "beside").mkdir()  # some mounts of object stores have folders that are always young
    as_read = digest(began_s)
    write_weights(folder, seed=2)

    assert len({as_read, digest(math.inf), digest(began_s), digest(began_s)}) == 4
    assert names == tensor_names(str(folder)) != tensors_at_start(given, began_s) == frozenset()


class Arguments:
    """SGLang's, of which all that is not given is None."""

    def __init__(self, given: dict[str, object]) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> None:
        return None
