"""Servers that embed: their forward is another one, and has to wait for loads, too."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from prompts import Ids, random_ids
from sglang_harness import ServerConfig, ServerError, SGLangServer, write_radixkv_config

SOAK = ("0.5.15", "0.5.18", "0.5.21")
NUM_PROMPTS = 24
TOLERANCE = 1e-3  # a vector has length 1; what reads KV that is not there is off by some 0.2


def embeddings(server: SGLangServer, prompts: list[Ids]) -> list[list[float]]:
    """In batches of a few, so that some are admitted while others load."""
    found: list[list[float]] = []
    for start in range(0, len(prompts), 6):
        answers = server.call("POST", "/encode", {"input_ids": prompts[start : start + 6]})
        found += [answer["embedding"] for answer in answers]
    return found


def assert_alike(found: list[list[float]], expected: list[list[float]]) -> None:
    for vector, right in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(vector, right, strict=True)) < TOLERANCE


@pytest.mark.parametrize(
    "version", ["0.5.23", *(pytest.param(version, marks=pytest.mark.soak) for version in SOAK)]
)
def test_embeddings_are_those_of_a_server_without_cache(
    version: str, models: dict[str, Path], tmp_path: Path
) -> None:
    rng = random.Random(5)
    documents = [random_ids(rng, 230) for _ in range(6)]
    prompts = [[*documents[i % 6], *random_ids(rng, 9)] for i in range(NUM_PROMPTS)]
    prompts = [*prompts, *prompts, *prompts]
    alone = ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=tmp_path / "server.log",
        cache="none",
        options=("--is-embedding",),
    )
    with SGLangServer(alone) as server:
        expected = embeddings(server, prompts)
    fail_a_load = tmp_path / "fail-a-load"
    starved = dataclasses.replace(  # the device has room for few: nearly all come out of memory
        alone,
        cache="radixkv",
        radixkv_config=write_radixkv_config(tmp_path, memory_bytes=16 << 20),
        device_tokens=600,
        environment={
            "RADIXKV_TEST_LATE_LOADS": "0.1",
            "RADIXKV_TEST_FAIL_LOAD": str(fail_a_load),
        },
    )
    with SGLangServer(starved) as server:
        found = embeddings(server, prompts)
        (state,) = server.wait_until_idle()
        fail_a_load.touch()  # before its end is heard of, only who waits for a layer hears of it
        with pytest.raises(ServerError, match="could not be loaded; send the request again"):
            embeddings(server, prompts[:1])
        again = embeddings(server, prompts[:1])

    assert state["radixkv"]["counters"]["loaded"] > 1000
    assert_alike(found, expected)
    assert_alike(again, expected[:1])
