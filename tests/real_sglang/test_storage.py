"""radixkv as the storage of SGLang's own HiCache: whole pages, found again after a flush."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prompts import Ids, random_ids
from redis_server import RedisServer
from sglang_harness import (
    Generation,
    ServerConfig,
    SGLangServer,
    engine_python,
    outputs,
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
HICACHE_OPTIONS = (
    *("--enable-hierarchical-cache", "--hicache-ratio", "2"),
    *("--hicache-io-backend", "direct", "--hicache-mem-layout", "layer_first"),
)
OPTIONS = (
    *HICACHE_OPTIONS,
    *("--hicache-storage-backend", "dynamic"),
    *("--hicache-storage-backend-extra-config", json.dumps(EXTRA_CONFIG)),
    *("--hicache-storage-prefetch-policy", "wait_complete"),
)

MAIN_VERSIONS = ("0.5.18", "0.5.21", "0.5.23")
OTHER_VERSIONS = ("0.5.15", "0.5.20", "0.5.22")  # one leg each
SOAK = [pytest.param(version, marks=pytest.mark.soak) for version in MAIN_VERSIONS]


@pytest.fixture
def config(version: str, models: dict[str, Path], tmp_path: Path) -> ServerConfig:
    """HiCache on one rank, over radixkv's memory and disk."""
    return ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=tmp_path / "server.log",
        page_size=PAGE_SIZE,
        options=OPTIONS,
        environment={"RADIXKV_CONFIG": str(write_radixkv_config(tmp_path, memory_bytes=8 << 20))},
    )


def on_ranks(config: ServerConfig, num_ranks: int) -> ServerConfig:
    binding = {"SGLANG_CPU_OMP_THREADS_BIND": "|".join("01"[:num_ranks])}
    return with_environment(dataclasses.replace(config, tp_size=num_ranks), binding)


def with_environment(config: ServerConfig, more: dict[str, str]) -> ServerConfig:
    return dataclasses.replace(config, environment={**config.environment, **more})


@pytest.fixture
def prompts() -> list[Ids]:
    rng = random.Random(11)
    return [random_ids(rng, 480) for _ in range(8)]


def assert_all_from_storage(answers: list[Generation]) -> None:
    for answer in answers:
        assert answer.storage_tokens >= answer.prompt_tokens - 2 * PAGE_SIZE


@functools.cache
def said_of_pools(version: str) -> dict[str, Any]:
    """What `host_pools_run.py` printed."""
    script = Path(__file__).with_name("host_pools_run.py")
    command = [engine_python(f"sglang-{version}"), "-P", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("version", SOAK)
def test_pages_are_the_same_in_every_layout(version: str) -> None:
    said = said_of_pools(version)

    for pool in ("MHATokenToKVPoolHost", "MLATokenToKVPoolHost"):
        for layout in ("layer_first", "page_first", "page_first_direct"):
            assert said[f"{pool} {layout}"] is True
        assert "--hicache-mem-layout page_head is not served" in said[f"{pool} page_head"]


@pytest.mark.parametrize("version", SOAK)
def test_no_page_is_answered_for_while_it_is_still_copied(version: str) -> None:
    assert said_of_pools(version)["late copies"] == [True, True, True]


@pytest.mark.soak
@pytest.mark.parametrize("version", MAIN_VERSIONS)
@pytest.mark.parametrize(("attention", "num_ranks"), [("mha", 1), ("mla", 1), ("mha", 2)])
def test_pages_come_back_after_a_flush_and_after_kill_9(
    config: ServerConfig,
    prompts: list[Ids],
    attention: str,
    num_ranks: int,
    models: dict[str, Path],
) -> None:
    config = on_ranks(dataclasses.replace(config, model=models[attention]), num_ranks)
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
        assert_all_from_storage(answers)


@pytest.mark.parametrize(
    ("version", "num_ranks"),
    [
        ("0.5.23", 1),
        *(
            pytest.param(version, num_ranks, marks=pytest.mark.soak)
            for version in MAIN_VERSIONS
            for num_ranks in (1, 2)
            if (version, num_ranks) != ("0.5.23", 1)
        ),
        *(pytest.param(version, 1, marks=pytest.mark.soak) for version in OTHER_VERSIONS),
    ],
)
def test_answers_are_right_while_transfers_of_one_rank_fail(
    config: ServerConfig, prompts: list[Ids], num_ranks: int
) -> None:
    faults = {"RADIXKV_TEST_FAULTS": f"{num_ranks - 1}:3"}
    storage_tokens = 0
    with SGLangServer(with_environment(on_ranks(config, num_ranks), faults)) as server:
        expected = outputs(server.generate(prompts))
        for _ in range(6):
            server.wait_until_idle()
            server.flush_cache()
            answers = server.generate(prompts)
            assert outputs(answers) == expected
            storage_tokens += sum(answer.storage_tokens for answer in answers)
        states = server.wait_until_idle()

    faulty = states[-1]["storage"]["counters"]
    assert sum(number for name, number in faulty.items() if "failed" in name) > 0
    assert storage_tokens > 0
    assert [state["storage"]["pins"] for state in states] == [0] * num_ranks


@pytest.mark.parametrize("version", SOAK)
def test_pages_come_from_a_redis_while_it_lives(
    config: ServerConfig, prompts: list[Ids], tmp_path: Path
) -> None:
    """A server stores them; another one, whose disk is elsewhere, finds them there."""
    redis = RedisServer(tmp_path)
    settings = {"memory": {"size": "8MiB"}, "remotes": [f"{redis.unix_url}?timeout=500ms"]}
    (tmp_path / "shared.yaml").write_text(json.dumps(settings))
    shared = with_environment(config, {"RADIXKV_CONFIG": str(tmp_path / "shared.yaml")})
    try:
        with SGLangServer(shared) as server:
            computed = server.generate(prompts)
            server.wait_until_idle()
        with SGLangServer(shared) as server:
            found = server.generate(prompts[:4])
            redis.kill()
            lost = server.generate(prompts[4:])
    finally:
        redis.close()

    assert outputs(found) + outputs(lost) == outputs(computed)
    assert_all_from_storage(found)
    assert [answer.storage_tokens for answer in lost] == [0] * len(lost)


@pytest.mark.parametrize("version", SOAK)
def test_pages_of_other_tenants_and_of_old_weights_are_not_found(
    version: str, config: ServerConfig, prompts: list[Ids], tmp_path: Path
) -> None:
    with SGLangServer(config) as server:
        if version != "0.5.18":  # there SGLang leaves salts out of its hashes
            server.generate(prompts, cache_salt="tenant")
            server.wait_until_idle()
            server.flush_cache()
        old = server.generate(prompts)
        server.update_weights(write_llama(tmp_path / "other", seed=2))
        new = server.generate(prompts)

    for answers in (old, new):
        assert [answer.cached_tokens for answer in answers] == [0] * len(prompts)
    assert outputs(new) != outputs(old)


@pytest.mark.parametrize("version", ["0.5.23", *SOAK[:-1]])
def test_pages_that_sglang_has_of_old_weights_are_not_taken_for_the_new_ones(
    config: ServerConfig, prompts: list[Ids], tmp_path: Path
) -> None:
    """An update without a flush: what is computed next begins with the old ones' KV. After one,
    pages are taken.
    """
    other = write_llama(tmp_path / "other", seed=2)
    prompts = prompts[:4]  # the device has room for all
    longer = [prompt + prompt[:80] for prompt in prompts]
    with SGLangServer(dataclasses.replace(config, model=other, options=())) as server:
        expected = outputs(server.generate(longer))
    with SGLangServer(config) as server:
        server.generate(prompts)
        server.update_weights(other, flush=False)
        server.generate(longer)
        for asked in (prompts, longer):
            server.wait_until_idle()
            server.flush_cache()
            answers = server.generate(asked)

        server.wait_until_idle()
        server.flush_cache()
        server.update_weights(config.model, flush=False)
        for _ in range(2):
            again = server.generate(prompts)
            server.wait_until_idle()
            server.flush_cache()

    assert outputs(answers) == expected
    for found in (answers, again):
        assert min(answer.storage_tokens for answer in found) >= 480 - 2 * PAGE_SIZE


@pytest.mark.parametrize("version", ["0.5.23", *SOAK[:-1]])
def test_storage_that_is_attached_after_an_update_knows_that_the_weights_are_others(
    config: ServerConfig, prompts: list[Ids], tmp_path: Path
) -> None:
    """Twice: what the disk has of the weights before, and what it has for those who start anew."""
    backend = {
        "hicache_storage_backend": "dynamic",
        "hicache_storage_backend_extra_config_json": json.dumps(EXTRA_CONFIG),
        "hicache_storage_prefetch_policy": "wait_complete",
    }
    place = "/hicache/storage-backend"
    attachable = dataclasses.replace(config, options=HICACHE_OPTIONS, admin_key="key")
    with SGLangServer(attachable) as server:
        server.call("PUT", place, backend)
        old = server.generate(prompts)
        server.wait_until_idle()
        server.call("DELETE", place)
        server.update_weights(write_llama(tmp_path / "other", seed=2))
        server.call("PUT", place, backend)
        new = server.generate(prompts)
        server.wait_until_idle()
        server.call("PUT", place, backend)  # nothing but a change of policies
        server.flush_cache()
        found = server.generate(prompts)
    with SGLangServer(config) as server:
        restarted = server.generate(prompts)

    assert [answer.cached_tokens for answer in new] == [0] * len(prompts)
    assert outputs(new) != outputs(old)
    assert outputs(found) == outputs(new)
    assert_all_from_storage(found)
    assert outputs(restarted) == outputs(old)
    assert_all_from_storage(restarted)
