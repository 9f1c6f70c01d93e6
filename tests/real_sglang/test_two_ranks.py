"""Two ranks on the CPU, one of which fails and delays its transfers at random.

Ranks that act on what they alone know admit different requests and wait for each other for ever;
here they must stay alike after every tick, whatever happens to one of them. Flushes and aborts come
in between, right behind what was sent, while copies run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prompts import MAX_NEW_TOKENS, Workload
from sglang_harness import (
    Generation,
    ServerConfig,
    SGLangServer,
    outputs,
    write_radixkv_config,
)
from sglang_models import KV_BYTES_PER_TOKEN
from workload_run import check_nothing_is_held

FAULTY_RANK, FAULT_SEED = 1, 5


VERSIONS = [
    "0.5.23",
    *(
        pytest.param(version, marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.18", "0.5.20", "0.5.21", "0.5.22")
    ),
]
pytestmark = pytest.mark.parametrize("version", VERSIONS, scope="module")


@dataclass(frozen=True, slots=True)
class Run:
    """What came back, and both ranks' states after each batch."""

    answers: list[Generation]
    expected: list[list[int]]
    states: list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(
    version: str,
    models: dict[str, Path],
    workload_for: Callable[[str], Workload],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    folder = tmp_path_factory.mktemp("ranks")
    workload = workload_for("mha")
    num_tokens = workload.num_distinct_tokens
    memory_bytes = num_tokens // 3 * KV_BYTES_PER_TOKEN["mha"]
    config = ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=folder / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(folder, memory_bytes=memory_bytes),
        tp_size=2,
        overlap=True,
        device_tokens=num_tokens // 10,
        environment={
            "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
            "RADIXKV_TEST_FAULTS": f"{FAULTY_RANK}:{FAULT_SEED}",
        },
    )
    found = Run([], [], [])
    with SGLangServer(config) as server:
        for number, prompts in enumerate(list(workload.batches())[::2]):
            ids = [prompt.ids for prompt in prompts]
            if number % 4 == 3:
                server.generate_each(ids, 200, abort_after_s=0.3)
            found.answers.extend(server.generate(ids, MAX_NEW_TOKENS))
            found.expected.extend(prompt.expected for prompt in prompts)
            if number % 4 == 1:
                server.flush_cache()
            found.states.append(server.wait_until_idle())
    return found


def test_every_answer_is_that_of_one_rank_without_cache(run: Run) -> None:
    assert outputs(run.answers) == run.expected


def test_transfers_failed_and_prompts_were_reused_all_the_same(run: Run) -> None:
    counters = run.states[-1][0]["radixkv"]["counters"]

    assert counters["stores_failed"] > 0
    assert counters["spills_failed"] > 0
    assert sum(answer.host_tokens + answer.storage_tokens for answer in run.answers) > 0


def test_ranks_are_alike_after_every_tick(run: Run) -> None:
    """The digest runs over the states of all ticks, so one that differed once differs for good."""
    for first, second in run.states:
        assert first["radixkv"]["num_ticks"] == second["radixkv"]["num_ticks"] > 0
        assert first["radixkv"]["tick_digest"] == second["radixkv"]["tick_digest"]
        assert first["available_slots"] == second["available_slots"]


def test_ranks_agree_at_most_once_in_a_tick(run: Run) -> None:
    for first, second in run.states:
        waited = first["radixkv"]["num_agreements"]
        assert 0 < waited == second["radixkv"]["num_agreements"]
        assert waited <= first["radixkv"]["num_ticks"]


def test_nothing_is_pinned_or_leaked_on_any_rank(run: Run) -> None:
    for states in run.states:
        for state in states:
            check_nothing_is_held(state)
