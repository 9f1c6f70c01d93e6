"""Models that are not covered are served as if there were no connector; several ranks agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload
from vllm_harness import VllmHost, connector


def ids_of(answers: list[dict[str, Ids]]) -> list[Ids]:
    return [answer["ids"] for answer in answers]


def test_what_is_not_covered_is_computed_and_said(
    host: VllmHost, models: dict[str, Path], workload_for: Callable[..., Workload]
) -> None:
    workload = workload_for("mha", "float32")
    host.start(models["mha"], connector(), enable_prefix_caching=False)
    for _ in range(2):
        answers = host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
        assert ids_of(answers) == workload.first_answers
        assert sum(answer["cached_tokens"] for answer in answers) == 0
    assert "prompts are computed, not reused: prefix caching is off" in host.log()


@pytest.fixture(scope="module")
def covered_engine(host: VllmHost, models: dict[str, Path]) -> VllmHost:
    host.start(models["mha"], connector())
    return host


@pytest.mark.parametrize(
    ("part", "setting", "value", "reason"),
    [
        ("model_config", "enable_sleep_mode", True, "sleep mode"),
        ("model_config", "enable_cumem_allocator", True, "the allocator that sleep mode uses"),
        ("parallel_config", "pipeline_parallel_size", 2, "pipeline parallelism"),
        ("cache_config", "enable_prefix_caching", False, "prefix caching is off"),
    ],
)
def test_what_is_not_covered_is_named(
    covered_engine: VllmHost, part: str, setting: str, value: object, reason: str
) -> None:
    assert reason in covered_engine.why_not_covered(part=part, setting=setting, value=value)


def test_a_release_that_nobody_has_read_is_not_covered(covered_engine: VllmHost) -> None:
    for release in ("0.26.0", "0.32.0+cpu", "0.33.1.dev7+g12ab"):
        assert covered_engine.why_not_covered_in(release=release) is None
    for release in ("0.25.1", "0.34.0rc1", "1.0", "dev"):
        reason = covered_engine.why_not_covered_in(release=release)
        assert f"vLLM {release} is not covered, only 0.26 to 0.33" in reason


def test_a_chunk_is_ready_when_every_rank_has_it(
    host: VllmHost, models: dict[str, Path], workload_for: Callable[..., Workload]
) -> None:
    workload = workload_for("mha", "float32")
    host.start(models["mha"], connector())
    host.intervene(name="add_a_faulty_rank")
    turns = ((workload.first, workload.first_answers), (workload.second, workload.second_answers))
    for prompts, expected in turns * 2:
        answers = host.generate(prompts=prompts, max_tokens=MAX_NEW_TOKENS)
        assert ids_of(answers) == expected
        assert host.settle()
        host.reset_prefix_cache()

    counters = host.state()["counters"]
    assert counters["stores_failed"] > 0
    assert counters["loaded"] > counters["stored"] > 0
    assert counters["loads_failed"] == 0


def test_two_ranks(
    models: dict[str, Path],
    workload_for: Callable[..., Workload],
    tmp_path: Path,
) -> None:
    """Scheduler and workers in processes of their own, half of the KV heads on each."""
    workload = workload_for("mha", "float32")
    processes = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1",
    }
    with VllmHost(tmp_path / "log", environment=processes) as host:
        host.start(
            models["mha"],
            connector(disk=tmp_path / "disk", memory="2MiB"),
            tensor_parallel_size=2,
            distributed_executor_backend="mp",
        )
        first = host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
        host.reset_prefix_cache()
        second = host.generate(prompts=workload.second, max_tokens=MAX_NEW_TOKENS)
        metrics = host.metrics()

    assert ids_of(first) == workload.first_answers
    assert ids_of(second) == workload.second_answers
    assert metrics["vllm:prompt_tokens_by_source,source=external_kv_transfer"] > 0
    assert metrics["vllm:radixkv_stores_failed"] == metrics["vllm:radixkv_loads_failed"] == 0
    assert sorted(file.name for file in (tmp_path / "disk").glob("*.radixkv")) == [
        "rank0.radixkv",
        "rank1.radixkv",
    ]
