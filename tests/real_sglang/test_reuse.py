"""The main promise: with radixkv every prompt gets the tokens that it gets without any cache.

The device holds a tenth of the prompts and the memory tier a third, so that the KV of the second
questions comes from everywhere: device, memory, disk and the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prompts import MAX_NEW_TOKENS, Prompt, Workload
from sglang_harness import Generation, ServerConfig, SGLangServer, write_radixkv_config
from sglang_models import KV_BYTES_PER_TOKEN

# Attention, page size, overlap schedule: each value at least once, all pairs in the soak.
LEGS = [
    pytest.param("mha", 1, False),
    pytest.param("mla", 16, True),
    *(
        pytest.param(attention, page_size, overlap, marks=pytest.mark.soak)
        for attention in ("mha", "mla")
        for page_size in (1, 16)
        for overlap in (False, True)
        if (attention, page_size, overlap) not in [("mha", 1, False), ("mla", 16, True)]
    ),
]

pytestmark = pytest.mark.parametrize(("attention", "page_size", "overlap"), LEGS, scope="module")


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that were sent together, what came back, and the server's state afterwards."""

    prompts: list[Prompt]
    answers: list[Generation]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A whole workload on one server; the tests below look at it from all sides."""

    batches: list[Batch]
    prefilled_tokens: dict[str, int]

    @property
    def answers(self) -> list[Generation]:
        return [answer for batch in self.batches for answer in batch.answers]

    @property
    def undisturbed(self) -> list[Generation]:
        """Those that ran through: a retracted request computes part of its prompt twice."""
        return [answer for answer in self.answers if answer.num_retractions == 0]


@pytest.fixture(scope="module")
def run(
    attention: str,
    page_size: int,
    overlap: bool,
    models: dict[str, Path],
    workload_for: Callable[[str], Workload],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    folder = tmp_path_factory.mktemp("reuse")
    workload = workload_for(attention)
    num_tokens = workload.num_distinct_tokens
    memory_bytes = num_tokens // 3 * KV_BYTES_PER_TOKEN[attention]
    config = ServerConfig(
        model=models[attention],
        log=folder / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(folder, memory_bytes=memory_bytes),
        page_size=page_size,
        overlap=overlap,
        device_tokens=num_tokens // 10 // page_size * page_size,
    )
    with SGLangServer(config) as server:
        batches = []
        for prompts in workload.batches():
            answers = server.generate([prompt.ids for prompt in prompts], MAX_NEW_TOKENS)
            (state,) = server.wait_until_idle()
            batches.append(Batch(prompts, answers, state))
    return Run(batches, server.prefilled_tokens)


def test_every_answer_is_that_of_a_run_without_cache(run: Run) -> None:
    answers = [answer.output_ids for answer in run.answers]

    assert len(answers) >= 200
    assert answers == [prompt.expected for batch in run.batches for prompt in batch.prompts]


def test_prompts_came_from_everywhere(run: Run) -> None:
    assert sum(answer.device_tokens for answer in run.answers) > 0
    assert sum(answer.host_tokens for answer in run.answers) > 0
    assert sum(answer.storage_tokens for answer in run.answers) > 0


def test_parts_of_a_prompt_add_up(run: Run) -> None:
    """What was computed is counted at the forward, not taken from SGLang's own figures."""
    assert len(run.undisturbed) >= len(run.answers) // 2
    for answer in run.undisturbed:
        parts = (answer.device_tokens, answer.host_tokens, answer.storage_tokens)
        assert sum(parts) == answer.cached_tokens
        assert sum(parts) + run.prefilled_tokens[answer.rid] == answer.prompt_tokens


def test_nothing_is_pinned_or_leaked_after_a_batch(run: Run) -> None:
    for batch in run.batches:
        state, radixkv = batch.state, batch.state["radixkv"]
        assert state["available_slots"] + state["evictable_slots"] == state["total_slots"]
        assert state["protected_slots"] == 0
        assert radixkv["pins"] == radixkv["device_transfers"] == 0
        for tier in radixkv["tiers"].values():
            assert tier["uses"] == tier["writing_chunks"] == 0


def test_radixkv_counts_what_sglang_reports(run: Run) -> None:
    counters = run.batches[-1].state["radixkv"]["counters"]
    reported = sum(answer.host_tokens + answer.storage_tokens for answer in run.undisturbed)

    assert counters["loads_failed"] == 0
    if len(run.undisturbed) == len(run.answers):
        assert counters["loaded"] == reported
    else:
        assert counters["loaded"] >= reported
