"""The main promise: with radixkv every prompt gets the tokens that it gets without any cache.

The device holds a tenth of the prompts and the memory tier a third, so that the KV of the second
questions comes from everywhere: device, memory, disk and the model itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from prompts import Workload
from workload_run import (
    Run,
    check_claims,
    check_kv,
    check_nothing_is_held,
    check_outputs,
    check_sums,
    run_workload,
    starved_server,
)

# Version, attention, page size, overlap schedule: each value at least once for each of SGLang's
# cache APIs, all pairs in the soak (of the older API with 0.5.18, the others have two legs).
LEGS = [
    ("0.5.18", "mla", 16, True),
    ("0.5.23", "mha", 1, True),
    ("0.5.23", "mla", 16, False),
]
SOAK_LEGS = [
    *(
        (version, attention, page_size, overlap)
        for version in ("0.5.18", "0.5.21", "0.5.22", "0.5.23")
        for attention in ("mha", "mla")
        for page_size in (1, 16)
        for overlap in (False, True)
        if (version, attention, page_size, overlap) not in LEGS
    ),
    *(
        (version, *leg)
        for version in ("0.5.15", "0.5.20")
        for leg in (("mha", 1, True), ("mla", 16, False))
    ),
]

pytestmark = pytest.mark.parametrize(
    ("version", "attention", "page_size", "overlap"),
    [*LEGS, *(pytest.param(*leg, marks=pytest.mark.soak) for leg in SOAK_LEGS)],
    scope="module",
)


@pytest.fixture(scope="module")
def run(
    version: str,
    attention: str,
    page_size: int,
    overlap: bool,
    models: dict[str, Path],
    workload_for: Callable[[str], Workload],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    folder = tmp_path_factory.mktemp("reuse")
    workload = workload_for(attention)
    config = starved_server(folder, models, workload, attention, page_size, overlap, memory_share=3)
    config = dataclasses.replace(config, engine=f"sglang-{version}")
    return run_workload(config, workload.batches())


def test_every_answer_is_that_of_a_run_without_cache(run: Run) -> None:
    assert len(run.answers) >= 200
    check_outputs(run)


def test_every_row_of_kv_is_that_of_a_run_without_cache(run: Run) -> None:
    check_kv(run.batches[-1].state)


def test_no_store_says_too_early_that_its_kv_is_computed(run: Run, overlap: bool) -> None:
    check_claims(run.batches[-1].state, overlap)


def test_prompts_came_from_everywhere(run: Run) -> None:
    assert sum(answer.device_tokens for answer in run.answers) > 0
    assert sum(answer.host_tokens for answer in run.answers) > 0
    assert sum(answer.storage_tokens for answer in run.answers) > 0


def test_parts_of_a_prompt_add_up(run: Run) -> None:
    assert len(run.undisturbed) >= len(run.answers) // 2
    check_sums(run)


def test_nothing_is_pinned_or_leaked_after_a_batch(run: Run) -> None:
    for batch in run.batches:
        check_nothing_is_held(batch.state)


def test_no_load_failed(run: Run) -> None:
    assert run.counters["loads_failed"] == 0
