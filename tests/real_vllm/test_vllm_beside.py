"""Beside another connector, in vLLM's MultiConnector."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import (
    MAX_NEW_TOKENS,
    Workload,
    assert_second_turns_reuse_the_first,
    random_ids,
)
from vllm_harness import TELLS_SOURCES, VllmHost, connector

pytestmark = pytest.mark.skipif(
    not TELLS_SOURCES, reason="vLLM 0.27 fails to count both in one process"
)


def one_beside_another(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [first, second]},
    }


def keeps_whole_prompts(folder: Path) -> dict[str, Any]:
    """vLLM's example: a folder for each prompt, loaded whole within the step."""
    return {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }


def test_second_turns_reuse_the_first(
    host: VllmHost,
    models: dict[str, Path],
    workload_for: Callable[..., Workload],
    tmp_path: Path,
) -> None:
    workload = workload_for("mha", "float32")
    both = one_beside_another(connector(), keeps_whole_prompts(tmp_path))
    host.start(models["mha"], both, disable_hybrid_kv_cache_manager=True)

    assert_second_turns_reuse_the_first(host, workload)


@pytest.mark.parametrize("is_guarded", [True, False], ids=["as it is", "guard out"])
def test_what_is_being_stored_is_not_what_another_connector_has_loaded_there(
    host: VllmHost, models: dict[str, Path], tmp_path: Path, *, is_guarded: bool
) -> None:
    """It loads into blocks that a request has just given back, while they are being copied out. The
    one that the step itself writes is another request's, which is not stored.
    """
    rng = random.Random(29)
    prompt, short, theirs = (random_ids(rng, length) for length in (257, 40, 290))
    host.start(models["mha"], enable_prefix_caching=False)
    (expected,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)
    both = one_beside_another(keeps_whole_prompts(tmp_path), connector())
    host.start(
        models["mha"],
        both,
        disable_hybrid_kv_cache_manager=True,
        num_gpu_blocks_override=11,  # as many as the longest prompt takes, and vLLM's own
        max_model_len=320,
    )
    host.generate(prompts=[theirs], max_tokens=1)
    assert host.settle()
    host.reset_prefix_cache()
    host.intervene(name="begin_stores_late")
    if not is_guarded:
        host.intervene(name="overwrite_what_is_stored")

    host.generate(prompts=[prompt], max_tokens=1)
    host.generate(prompts=[short], max_tokens=1, kv_transfer_params={"radixkv": {"write": False}})
    host.generate(prompts=[theirs], max_tokens=1)  # loaded from the folder
    assert host.settle()
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    host.reset_prefix_cache()
    (answer,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)

    assert answer["cached_tokens"] == 256
    assert (answer["ids"] == expected["ids"]) == is_guarded
