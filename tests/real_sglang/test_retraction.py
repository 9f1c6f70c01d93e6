"""Requests that SGLang takes back in the middle of their answer, and admits again later."""

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

LEGS = [
    ("0.5.23", "mha", 1, True),
    ("0.5.18", "mla", 16, False),
    *(
        pytest.param(version, *leg, marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.18", "0.5.20", "0.5.21", "0.5.22", "0.5.23")
        for leg in (("mha", 1, True), ("mla", 16, False))
        if (version, leg[0]) not in [("0.5.18", "mla"), ("0.5.23", "mha")]
    ),
]
EVERY = 5  # so many forward passes, one request is taken back

pytestmark = pytest.mark.parametrize(
    ("version", "attention", "page_size", "overlap"), LEGS, scope="module"
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
    """A third of the workload; memory is too small for it, the device smaller still."""
    folder = tmp_path_factory.mktemp("retraction")
    workload = workload_for(attention)
    config = starved_server(folder, models, workload, attention, page_size, overlap, memory_share=8)
    config = dataclasses.replace(
        config,
        engine=f"sglang-{version}",
        environment=config.environment
        | {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": str(EVERY)},
    )
    return run_workload(config, list(workload.batches())[::3])


def test_many_were_retracted_and_many_were_not(run: Run) -> None:
    num_disturbed = len(run.answers) - len(run.undisturbed)

    assert num_disturbed >= len(run.answers) // 8
    assert len(run.undisturbed) >= len(run.answers) // 8


def test_every_answer_is_that_of_a_run_without_cache(run: Run) -> None:
    check_outputs(run)


def test_every_row_of_kv_is_that_of_a_run_without_cache(run: Run) -> None:
    check_kv(run.batches[-1].state)


def test_no_store_says_too_early_that_its_kv_is_computed(run: Run, overlap: bool) -> None:
    check_claims(run.batches[-1].state, overlap)


def test_prompts_came_from_below_the_device(run: Run) -> None:
    assert sum(answer.host_tokens + answer.storage_tokens for answer in run.undisturbed) > 0


def test_parts_of_a_prompt_that_ran_through_add_up(run: Run) -> None:
    check_sums(run)


def test_nothing_is_pinned_or_leaked_after_a_batch(run: Run) -> None:
    for batch in run.batches:
        check_nothing_is_held(batch.state)
