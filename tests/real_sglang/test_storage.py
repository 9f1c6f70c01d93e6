"""radixkv as the storage of SGLang's own HiCache: whole pages, found again after a flush."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from pathlib import Path

import pytest
from prompts import Ids, random_ids
from sglang_harness import (
    Generation,
    ServerConfig,
    SGLangServer,
    engine_python,
    write_radixkv_config,
)
from sglang_models import write_llama

PAGE_SIZE = 16
EXTRA_CONFIG = {
    "backend_name": "radixkv",
    "module_path": "sglang_ext.storage",
    "class_name": "RadixKVStorage",
    "interface_v1": 1,
}
OPTIONS = (
    *("--enable-hierarchical-cache", "--hicache-ratio", "2"),
    *("--hicache-io-backend", "direct", "--hicache-mem-layout", "layer_first"),
    *("--hicache-storage-backend", "dynamic"),
    *("--hicache-storage-backend-extra-config", json.dumps(EXTRA_CONFIG)),
    *("--hicache-storage-prefetch-policy", "wait_complete"),
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.parametrize("version", ["0.5.18", "0.5.21", "0.5.23"]),
]


@pytest.fixture
def config(version: str, models: dict[str, Path], tmp_path: Path) -> ServerConfig:
    settings = write_radixkv_config(tmp_path, memory_bytes=8 << 20)
    return ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=tmp_path / "server.log",
        page_size=PAGE_SIZE,
        options=OPTIONS,
        environment={"RADIXKV_CONFIG": str(settings)},
    )


@pytest.fixture
def prompts() -> list[Ids]:
    rng = random.Random(11)
    return [random_ids(rng, 480) for _ in range(8)]


def outputs(answers: list[Generation]) -> list[Ids]:
    return [answer.output_ids for answer in answers]


def test_pages_are_the_same_in_every_layout(version: str) -> None:
    script = Path(__file__).with_name("host_pools_run.py")
    command = [engine_python(f"sglang-{version}"), "-P", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])

    for pool in ("MHATokenToKVPoolHost", "MLATokenToKVPoolHost"):
        for layout in ("layer_first", "page_first", "page_first_direct"):
            assert said[f"{pool} {layout}"] is True
        assert "--hicache-mem-layout page_head is not served" in said[f"{pool} page_head"]


def test_pages_come_back_after_a_flush_and_after_kill_9(
    config: ServerConfig, prompts: list[Ids]
) -> None:
    with SGLangServer(config) as server:
        computed = server.generate(prompts)
        server.wait_until_idle()
        server.flush_cache()
        flushed = server.generate(prompts)
        server.wait_until_idle()
    with SGLangServer(config) as server:
        restarted = server.generate(prompts)

    for answers in (flushed, restarted):
        assert outputs(answers) == outputs(computed)
        for answer in answers:
            assert answer.storage_tokens >= answer.prompt_tokens - 2 * PAGE_SIZE


def test_answers_are_right_while_transfers_fail(config: ServerConfig, prompts: list[Ids]) -> None:
    faulty = {"RADIXKV_TEST_FAULTS": "0:3", **config.environment}
    with SGLangServer(dataclasses.replace(config, environment=faulty)) as server:
        expected = outputs(server.generate(prompts))
        for _ in range(6):
            server.wait_until_idle()
            server.flush_cache()
            assert outputs(server.generate(prompts)) == expected
        (state,) = server.wait_until_idle()

    failed = {name: number for name, number in state["storage"].items() if "failed" in name}
    assert sum(failed.values()) > 0
    assert state["storage"]["loaded"] > 0


def test_pages_of_old_weights_are_not_found(
    config: ServerConfig, prompts: list[Ids], tmp_path: Path
) -> None:
    with SGLangServer(config) as server:
        old = server.generate(prompts)
        server.wait_until_idle()
        other = write_llama(tmp_path / "other", seed=2)
        body = {"model_path": str(other), "flush_cache": True}
        assert server.call("POST", "/update_weights_from_disk", body)["success"]
        new = server.generate(prompts)

    assert [answer.cached_tokens for answer in new] == [0] * len(prompts)
    assert outputs(new) != outputs(old)
