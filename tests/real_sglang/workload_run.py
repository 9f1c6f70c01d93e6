"""A workload on one server: what came back, what state it left, and what must hold of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompts import MAX_NEW_TOKENS, Prompt, Workload
from sglang_harness import (
    Generation,
    ServerConfig,
    SGLangServer,
    outputs,
    write_radixkv_config,
)
from sglang_models import KV_BYTES_PER_TOKEN

# How a server is told to write down its KV, or to compare it: see `kv_audit.py`.
KV_AUDIT = "RADIXKV_TEST_KV_AUDIT"


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that were sent together, what came back, and the server's state afterwards."""

    prompts: list[Prompt]
    answers: list[Generation]
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What a single rank made of a workload."""

    batches: list[Batch]
    prefilled_tokens: dict[str, int]

    @property
    def answers(self) -> list[Generation]:
        return [answer for batch in self.batches for answer in batch.answers]

    @property
    def undisturbed(self) -> list[Generation]:
        """Those that ran through: a retracted request computes part of its prompt twice."""
        return [answer for answer in self.answers if answer.num_retractions == 0]

    @property
    def counters(self) -> dict[str, int]:
        """radixkv's own, at the end."""
        counters: dict[str, int] = self.batches[-1].state["radixkv"]["counters"]
        return counters


def starved_server(
    folder: Path,
    models: Mapping[str, Path],
    workload: Workload,
    attention: str,
    page_size: int,
    overlap: bool,
    *,
    memory_share: int,
    prefetch_deadline: str = "2s",
) -> ServerConfig:
    """radixkv where the device holds a tenth of a workload, memory one part in `memory_share`.

    All its KV is compared with that of the server that had no cache.
    """
    num_tokens = workload.num_distinct_tokens
    memory_bytes = num_tokens // memory_share * KV_BYTES_PER_TOKEN[attention]
    return ServerConfig(
        model=models[attention],
        log=folder / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(
            folder, memory_bytes=memory_bytes, prefetch_deadline=prefetch_deadline
        ),
        page_size=page_size,
        overlap=overlap,
        device_tokens=num_tokens // 10 // page_size * page_size,
        environment={KV_AUDIT: f"check:{workload.right_kv}"},
    )


def run_workload(config: ServerConfig, batches: Iterable[list[Prompt]]) -> Run:
    """Sends one batch after the other; each begins when nothing is left of the one before."""
    done = []
    with SGLangServer(config) as server:
        for prompts in batches:
            answers = server.generate([prompt.ids for prompt in prompts], MAX_NEW_TOKENS)
            (state,) = server.wait_until_idle()
            done.append(Batch(prompts, answers, state))
    return Run(done, server.prefilled_tokens)


def check_outputs(run: Run) -> None:
    """Every answer is that of a run without cache."""
    expected = [prompt.expected for batch in run.batches for prompt in batch.prompts]
    assert outputs(run.answers) == expected


def check_kv(state: Mapping[str, Any]) -> None:
    """Every row that a forward read or wrote, or that memory held, is what was right there."""
    audit = state["kv_audit"]
    assert not audit["told"], audit["told"]
    assert not any(audit["wrong"].values())
    for kind in ("engine", "stored", "fetched", "kept"):
        assert audit["tokens"][kind] > 10 * audit["unknown"].get(kind, 0), kind


def check_claims(state: Mapping[str, Any], overlap: bool) -> None:
    """No store said that its KV was computed before SGLang had heard so, and some said it.

    Where SGLang schedules ahead, others had reason not to.
    """
    claims = state["store_claims"]
    assert not claims["too_early"], claims["too_early"]
    assert claims["stores"]["computed_heard"] > 0
    if overlap:
        assert claims["stores"]["fenced_unheard"] > 0


def check_sums(run: Run) -> None:
    """Where a prompt's tokens came from adds up; SGLang's figures and radixkv's agree.

    What was computed is counted at the forward, not taken from SGLang's own figures.
    """
    for answer in run.undisturbed:
        parts = (answer.device_tokens, answer.host_tokens, answer.storage_tokens)
        assert sum(parts) == answer.cached_tokens
        assert sum(parts) + run.prefilled_tokens[answer.rid] == answer.prompt_tokens
    reported = sum(answer.host_tokens + answer.storage_tokens for answer in run.undisturbed)
    if len(run.undisturbed) == len(run.answers):
        assert run.counters["loaded"] == reported
    else:
        assert run.counters["loaded"] >= reported


def check_nothing_is_held(state: dict[str, Any]) -> None:
    """An idle rank has no locked slot, lost none and has none twice, and radixkv neither pins nor
    moves anything."""
    radixkv = state["radixkv"]
    assert state["available_slots"] + state["evictable_slots"] == state["total_slots"]
    assert state["slots_twice"] == 0
    assert state["protected_slots"] == 0
    assert radixkv["pins"] == radixkv["device_transfers"] == 0
    for tier in radixkv["tiers"].values():
        assert tier["uses"] == tier["writing_chunks"] == 0
