"""KV of a LoRA adapter outlasts a restart, and another adapter in its place does not find it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from prompts import Ids, random_ids
from sglang_harness import Generation, ServerConfig, SGLangServer, outputs, write_radixkv_config
from sglang_models import write_adapter
from test_storage import OPTIONS as BELOW_HICACHE
from test_storage import PAGE_SIZE

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
