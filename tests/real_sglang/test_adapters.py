"""KV of a LoRA adapter outlasts a restart, and another adapter in its place does not find it."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from prompts import Ids, random_ids
from sglang_harness import Generation, ServerConfig, SGLangServer, outputs, write_radixkv_config
from sglang_models import write_adapter, write_llama
from test_storage import EXTRA_CONFIG, HICACHE_OPTIONS, PAGE_SIZE
from test_storage import OPTIONS as BELOW_HICACHE

VERSIONS = ("0.5.15", "0.5.18", "0.5.20", "0.5.21", "0.5.22", "0.5.23")
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def prompts() -> list[Ids]:
    rng = random.Random(5)
    return [random_ids(rng, 400) for _ in range(4)]


def config(version: str, model: Path, folder: Path, *adapters: Path, **changes) -> ServerConfig:
    """A server with adapters that are named after their folders."""
    plain = ServerConfig(
        engine=f"sglang-{version}",
        model=model,
        log=folder / "server.log",
        cache="none",
        device_tokens=16384,
        options=(
            *("--enable-lora", "--lora-paths", *(f"{path.name}={path}" for path in adapters)),
            *("--max-lora-rank", "8", "--lora-target-modules", "q_proj", "k_proj", "v_proj"),
            *("--lora-backend", "torch_native"),
        ),
    )
    return dataclasses.replace(plain, **changes)


def ask_and_close(config: ServerConfig, prompts: list[Ids], adapter: str) -> list[Generation]:
    with SGLangServer(config) as server:
        answers = server.generate(prompts, lora_path=adapter)
        server.wait_until_idle()
        server.close()
    return answers


def stored_tokens(answers: list[Generation]) -> int:
    return sum(answer.storage_tokens for answer in answers)


@pytest.mark.parametrize(
    ("version", "below_hicache"),
    [*((version, False) for version in VERSIONS), ("0.5.20", True), ("0.5.23", True)],
)
def test_an_adapter_finds_its_own_kv_again_and_no_other(
    version: str, below_hicache: bool, models: dict[str, Path], prompts: list[Ids], tmp_path: Path
) -> None:
    first, second = (write_adapter(tmp_path / f"number{seed}", seed) for seed in (1, 2))
    plain = config(version, models["mha"], tmp_path, first, second)
    with SGLangServer(plain) as server:
        expected = [
            outputs(server.generate(prompts, lora_path=path.name)) for path in (first, second)
        ]
    assert expected[0] != expected[1]
    place = tmp_path / "adapter"
    options = config(version, models["mha"], tmp_path, place).options
    cached = dataclasses.replace(
        plain,
        cache="radix" if below_hicache else "radixkv",
        radixkv_config=write_radixkv_config(tmp_path, memory_bytes=64 << 20, durable="group"),
        options=(*options, *(BELOW_HICACHE if below_hicache else ())),
        page_size=PAGE_SIZE if below_hicache else 1,
    )

    write_adapter(place, 1)
    computed = ask_and_close(cached, prompts, place.name)
    found = ask_and_close(cached, prompts, place.name)
    write_adapter(place, 2)
    replaced = ask_and_close(cached, prompts, place.name)

    assert outputs(computed) == outputs(found) == expected[0]
    assert stored_tokens(computed) == 0
    assert stored_tokens(found) > 0
    assert outputs(replaced) == expected[1]
    assert stored_tokens(replaced) == 0


@pytest.mark.parametrize("what", ["adapter", "model"])
@pytest.mark.parametrize("version", ["0.5.20", "0.5.23"])
def test_storage_that_is_attached_after_their_files_changed_does_not_take_them_for_what_runs(
    version: str, what: str, prompts: list[Ids], tmp_path: Path
) -> None:
    write = {"adapter": write_adapter, "model": write_llama}[what]
    model = write_llama(tmp_path / "model", seed=1)
    adapter = write_adapter(tmp_path / "adapter", seed=1)
    plain = config(version, model, tmp_path, adapter, page_size=PAGE_SIZE, cache="radix")
    attachable = dataclasses.replace(
        plain,
        radixkv_config=write_radixkv_config(tmp_path, memory_bytes=64 << 20, durable="group"),
        options=(*plain.options, *HICACHE_OPTIONS),
        admin_key="key",
    )
    backend = {
        "hicache_storage_backend": "dynamic",
        "hicache_storage_backend_extra_config_json": json.dumps(EXTRA_CONFIG),
        "hicache_storage_prefetch_policy": "wait_complete",
    }

    with SGLangServer(attachable) as server:
        write(tmp_path / what, seed=2)
        server.call("PUT", "/hicache/storage-backend", backend)
        old = server.generate(prompts, lora_path=adapter.name)
        server.wait_until_idle()
        server.flush_cache()
        found = server.generate(prompts, lora_path=adapter.name)
        server.wait_until_idle()
        server.close()
    stored = dataclasses.replace(attachable, options=(*plain.options, *BELOW_HICACHE))
    replaced = ask_and_close(stored, prompts, adapter.name)
    expected = ask_and_close(dataclasses.replace(plain, cache="none"), prompts, adapter.name)

    assert outputs(found) == outputs(old) != outputs(expected)
    assert stored_tokens(found) > 0
    assert outputs(replaced) == outputs(expected)
    assert stored_tokens(replaced) == 0
