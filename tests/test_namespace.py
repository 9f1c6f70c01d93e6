"""Namespace digests, and the identity of a model's weights."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from radixkv.layout import KVLayout
from radixkv.namespace import (
    SAMPLE_BYTES,
    Namespace,
    common_identity,
    last_change_s,
    model_identity,
)

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "rope_theta": 10000.0}
NUM_VALUES = 1 << 20  # float32: 4 MiB, more than the samples cover


def write_model(folder: Path, weights: np.ndarray, config: dict[str, object] = CONFIG) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [weights.size], "data_offsets": [0, weights.nbytes]}}
    ).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + weights.tobytes()
    )
    return folder


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(5).random(NUM_VALUES, dtype=np.float32)


@pytest.fixture
def namespace() -> Namespace:
    layout = KVLayout(num_layers=2, num_kv=2, row_bytes=64, dtype="bfloat16")
    return Namespace(model="m" * 32, layout_digest=layout.digest(64))


def test_a_digest_is_the_same_in_every_process(namespace):
    assert namespace.digest().hex() == "1e0d9bf1672f1e4137aa892609381312"


@pytest.mark.parametrize("name", [spec.name for spec in dataclasses.fields(Namespace)])
def test_every_attribute_counts(namespace, name):
    changed = dataclasses.replace(namespace, **{name: b"x" if name == "layout_digest" else "x"})

    assert changed.digest() != namespace.digest()


def test_attributes_do_not_run_into_each_other(namespace):
    one = dataclasses.replace(namespace, lora="ab", salt="c")
    other = dataclasses.replace(namespace, lora="a", salt="bc")

    assert one.digest() != other.digest()


def test_a_copy_elsewhere_is_the_same_model(tmp_path, weights):
    original = write_model(tmp_path / "here", weights)
    copy = shutil.copytree(original, tmp_path / "there" / "deeper")

    assert model_identity(copy) == model_identity(original)


def test_linked_files_are_the_same_model(tmp_path, weights):
    original = write_model(tmp_path / "blobs", weights)
    links = tmp_path / "snapshot"
    links.mkdir()
    for file in original.iterdir():
        (links / file.name).symlink_to(file)

    assert model_identity(links) == model_identity(original)


def test_where_a_config_came_from_does_not_count(tmp_path, weights):
    one = write_model(tmp_path / "one", weights, {**CONFIG, "_name_or_path": "a/b"})
    other = write_model(
        tmp_path / "other",
        weights,
        {"transformers_version": "4.57", **dict(reversed(CONFIG.items()))},
    )

    assert model_identity(one) == model_identity(other)


def test_a_changed_config_is_another_model(tmp_path, weights):
    one = write_model(tmp_path / "one", weights)
    other = write_model(tmp_path / "other", weights, {**CONFIG, "rope_theta": 500000.0})

    assert model_identity(one) != model_identity(other)


@pytest.mark.parametrize("position", [0, NUM_VALUES - 1])
def test_one_weight_changed_inside_a_sample_is_another_model(tmp_path, weights, position):
    one = write_model(tmp_path / "one", weights)
    weights[position] += 1
    other = write_model(tmp_path / "other", weights)

    assert model_identity(one) != model_identity(other)


def test_a_run_of_changed_weights_as_long_as_the_distance_of_samples_is_seen(tmp_path, weights):
    one = write_model(tmp_path / "one", weights)
    weights[500_000 : 500_000 + NUM_VALUES // 63] += 1
    other = write_model(tmp_path / "other", weights)

    assert model_identity(one) != model_identity(other)


def test_a_change_of_any_one_tensor_is_seen(tmp_path):
    num_tensors, size = 500, 1 << 15  # less than a sample's distance, as of one layer's K
    table = {
        f"{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(num_tensors)
    }
    header = json.dumps(table).encode()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(num_tensors * size))
    identities = {model_identity(tmp_path)}

    for i in (0, 3, 250, 251, 499):
        with file.open("r+b") as edited:
            edited.seek(8 + len(header) + i * size)
            edited.write(bytes([1]) * size)
        identities.add(model_identity(tmp_path))

    assert len(identities) == 6


def test_one_weight_between_samples_is_the_documented_limit(tmp_path, weights):
    one = write_model(tmp_path / "one", weights)
    weights[SAMPLE_BYTES // 4 + 100] += 1
    other = write_model(tmp_path / "other", weights)

    assert model_identity(one) == model_identity(other)


def test_a_file_of_another_size_or_name_is_another_model(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    before = model_identity(model)

    (model / "model.safetensors").rename(model / "model-1.safetensors")
    renamed = model_identity(model)
    with (model / "model-1.safetensors").open("ab") as file:
        file.write(b"\0")

    assert len({before, renamed, model_identity(model)}) == 3


def test_a_config_as_mistral_writes_it_counts(tmp_path, weights):
    folder = write_model(tmp_path / "m", weights)
    identities = {model_identity(folder)}
    for theta in (1e4, 1e6):
        (folder / "params.json").write_text(json.dumps({"dim": 32, "rope_theta": theta}))
        identities.add(model_identity(folder))
    (folder / "config.json").unlink()
    identities.add(model_identity(folder))

    assert len(identities) == 4


def test_code_that_comes_with_the_model_counts(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    before = model_identity(model)

    (model / "modeling_x.py").write_text("SCALE = 2\n")

    assert model_identity(model) != before


def test_what_is_no_part_of_the_model_does_not_count(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    before = model_identity(model)

    (model / "README.md").write_text("about\n")
    (model / "tokenizer.json").write_text("{}")

    assert model_identity(model) == before


def test_overrides_count_whatever_their_order(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)

    plain = model_identity(model)
    both = model_identity(model, {"quantization": "fp8", "rope_scaling": {"factor": 2}})
    swapped = model_identity(model, {"rope_scaling": {"factor": 2}, "quantization": "fp8"})

    assert plain != both
    assert both == swapped


def test_a_folder_without_weights_is_known_by_its_config(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))

    assert model_identity(tmp_path / "one") == model_identity(tmp_path / "other")


def test_a_single_file_of_weights_is_a_model(tmp_path, weights):
    one, other = tmp_path / "a.gguf", tmp_path / "b.gguf"
    one.write_bytes(weights.tobytes())
    shutil.copy(one, other)

    assert model_identity(one) == model_identity(other)


def test_a_safetensors_file_cut_short_has_an_identity(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    whole = model_identity(model)

    (model / "model.safetensors").write_bytes(b"\xff" * 100)

    assert model_identity(model) != whole


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model_path: expected a folder with config.json"):
        model_identity(tmp_path)


def test_engines_share_the_identity_of_a_model_that_they_take_as_it_is(tmp_path, weights):
    one = write_model(tmp_path / "one", weights)
    copy = write_model(tmp_path / "copy", weights)
    tuned = write_model(tmp_path / "tuned", weights + 1)

    identity = common_identity(one, "bfloat16", 1)

    assert identity is not None
    assert identity == common_identity(copy, "bfloat16", 1)
    others = {
        common_identity(tuned, "bfloat16", 1),
        common_identity(one, "float16", 1),
        common_identity(one, "bfloat16", 2),
        model_identity(one),
    }
    assert len(others | {identity}) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "deepseek_v2"},
        {"rope_scaling": {"rope_type": "longrope"}},
        {"rope_parameters": {"type": "dynamic"}},
        {"sliding_window": 4096},
        {"quantization_config": {"quant_method": "fp8"}},
        {"auto_map": {"AutoModel": "modeling.Model"}},
    ],
)
def test_engines_share_nothing_where_they_may_differ(tmp_path, weights, changes):
    model = write_model(tmp_path / "model", weights, CONFIG | changes)

    assert common_identity(model, "bfloat16", 1) is None


def test_a_window_that_is_not_used_makes_no_difference(tmp_path, weights):
    unused = {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}
    model = write_model(tmp_path / "model", weights, CONFIG | unused)

    assert common_identity(model, "bfloat16", 1) is not None
    assert common_identity(model / "model.safetensors", "bfloat16", 1) is None


def test_a_folder_may_be_left_out_of_what_was_changed_last(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    of_files = last_change_s(str(model), with_folder=False)
    while model.stat().st_ctime <= of_files:
        (model / "clock").touch()
        (model / "clock").unlink()

    assert last_change_s(str(model)) == model.stat().st_ctime > of_files
    assert last_change_s(str(model), with_folder=False) == of_files


def test_a_file_alone_and_a_link_to_nothing_are_looked_at(tmp_path, weights):
    model = write_model(tmp_path / "model", weights)
    file = model / "model.safetensors"
    (model / "nowhere").symlink_to("nothing")

    assert last_change_s(str(file), with_folder=False) == file.stat().st_ctime
    assert math.isfinite(last_change_s(str(model)))
    assert last_change_s(str(model / "nothing")) == math.inf
