"""Thousands of requests leave the scheduler as large as it was after the first thousand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from prompts import Ids, random_ids
from sglang_harness import ServerConfig, SGLangServer, write_radixkv_config
from workload_run import check_nothing_is_held

NUM_REQUESTS = 5_000
BATCH_SIZE = 50
NUM_DOCUMENTS = 200
SLACK_BYTES = 16 << 20

# Marked for the soak only: some minutes each.
pytestmark = [
    pytest.mark.soak,
    pytest.mark.parametrize("version", ["0.5.18", "0.5.21", "0.5.23"]),
]


@pytest.fixture
def config(version: str, models: dict[str, Path], tmp_path: Path) -> ServerConfig:
    """Every tier is full long before the first thousand requests are over."""
    return ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=tmp_path / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(tmp_path, memory_bytes=16 << 20, disk_bytes=64 << 20),
        overlap=True,
        max_running_requests=8,
    )


def ask(server: SGLangServer, batches: list[list[Ids]]) -> dict[str, Any]:
    """Sends batch after batch; the server's state when all is over."""
    for batch in batches:
        answers = server.generate(batch, 4)
        assert {answer.finish_reason["type"] for answer in answers} == {"length"}
    (state,) = server.wait_until_idle()
    return state


def test_thousands_of_requests_leave_nothing_behind(config: ServerConfig) -> None:
    rng = random.Random(3)
    documents = [random_ids(rng, 150) for _ in range(NUM_DOCUMENTS)]
    prompts = [[*rng.choice(documents), *random_ids(rng, 60)] for _ in range(NUM_REQUESTS)]
    batches = [prompts[i : i + BATCH_SIZE] for i in range(0, NUM_REQUESTS, BATCH_SIZE)]
    fifth = len(batches) // 5

    with SGLangServer(config) as server:
        early = ask(server, batches[:fifth])
        late = ask(server, batches[fifth:])

    evicted = early["radixkv"]["tiers"]["disk"]["evicted_chunks"]
    assert evicted > 0, "the disk was not full yet"
    assert late["radixkv"]["counters"]["loaded"] > early["radixkv"]["counters"]["loaded"] > 0
    for state in (early, late):
        check_nothing_is_held(state)
    assert late["resident_bytes"] <= early["resident_bytes"] * 1.01 + SLACK_BYTES
