"""What an engine left on disk is found by the next one, at its first request; or it is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload
from vllm_harness import TELLS_SOURCES, VllmHost, cached_by_source, connector

from radixkv.tiers.disk import inspect_folder


@pytest.fixture(scope="module")
def workload(workload_for: Callable[..., Workload]) -> Workload:
    return workload_for("mha", "float32")


@pytest.fixture(scope="module")
def folder(
    host: VllmHost,
    models: dict[str, Path],
    workload: Workload,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A disk tier that an engine has filled with the first turns."""
    folder = tmp_path_factory.mktemp("disk")
    host.start(models["mha"], connector(disk=folder))
    host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
    assert host.settle()
    assert host.state()["counters"]["spilled"] == host.state()["counters"]["stored"] > 0
    host.stop()
    return folder


def ids_of(answers: list[dict[str, Ids]]) -> list[Ids]:
    return [answer["ids"] for answer in answers]


def test_the_next_engine_finds_it_at_the_first_request(
    host: VllmHost, models: dict[str, Path], workload: Workload, folder: Path
) -> None:
    host.start(models["mha"], connector(disk=folder))
    longest = max(range(len(workload.second)), key=lambda i: len(workload.second[i]))

    (answer,) = host.generate(prompts=[workload.second[longest]], max_tokens=MAX_NEW_TOKENS)

    assert answer["ids"] == workload.second_answers[longest]
    assert answer["cached_tokens"] >= len(workload.first[longest]) // 32 * 32
    if TELLS_SOURCES:
        assert cached_by_source(host.metrics()) == {"disk": answer["cached_tokens"]}


def test_memory_much_smaller_than_what_is_kept(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    """1 MiB holds 512 tokens: everything goes through the disk, and out again while more comes."""
    host.start(models["mha"], connector(disk=tmp_path, memory="1MiB"))
    turns = [(workload.first, workload.first_answers), (workload.second, workload.second_answers)]
    for prompts, expected in turns * 2:
        for prompt, ids in zip(prompts, expected, strict=True):
            assert ids_of(host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)) == [ids]
        assert host.settle()
        host.reset_prefix_cache()

    state = host.state()
    assert state["counters"]["fetched"] > 1000
    assert state["counters"]["loaded"] > 1000
    assert state["pending"] == state["requests"] == state["uses"] == state["writing"] == 0
    assert state["levels"]["pins"] == 0


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "is late"])
def test_a_fetch_that_does_not_come_is_computed(
    host: VllmHost, models: dict[str, Path], workload: Workload, folder: Path, fails: bool
) -> None:
    host.start(models["mha"], connector(disk=folder, prefetch={"deadline": "100ms"}))
    if fails:
        host.fault(kind="fetch", fail=True)
    else:
        host.hold(kind="fetch")

    answers = host.generate(prompts=[workload.second[-1]], max_tokens=MAX_NEW_TOKENS)

    host.release()
    assert ids_of(answers) == [workload.second_answers[-1]]
    assert answers[0]["cached_tokens"] == 0
    assert host.settle()
    counters = host.state()["counters"]
    assert counters["fetches_failed" if fails else "prefetches_late"] > 0
    assert host.state()["levels"]["pins"] == 0


def test_other_requests_run_while_one_waits_for_the_disk(
    host: VllmHost, models: dict[str, Path], workload: Workload, folder: Path
) -> None:
    host.start(models["mha"], connector(disk=folder, prefetch={"deadline": "60s"}))
    host.hold(kind="fetch")
    host.submit(request_id="waits", prompt=workload.second[-1], max_tokens=MAX_NEW_TOKENS)
    host.submit(request_id="runs", prompt=[7] * 20, max_tokens=1)
    while "runs" not in (finished := host.take_finished()):
        host.step()

    assert "waits" not in finished
    host.release()
    while host.step():
        pass
    waited = host.take_finished()["waits"]
    assert waited["ids"] == workload.second_answers[-1]
    assert waited["cached_tokens"] > 0


def test_damaged_chunks_are_computed(
    host: VllmHost, models: dict[str, Path], workload: Workload, folder: Path
) -> None:
    """Last in this file: it spoils the folder."""
    (found,) = inspect_folder(folder)
    content = bytearray(found.path.read_bytes())
    payload = len(content) - found.capacity_units * found.unit_bytes
    for offset in range(payload, len(content), 4096):
        content[offset] ^= 0xFF
    found.path.write_bytes(content)
    host.start(models["mha"], connector(disk=folder))

    answers = host.generate(prompts=workload.second, max_tokens=MAX_NEW_TOKENS)

    assert ids_of(answers) == workload.second_answers
    counters = host.state()["counters"]
    assert counters["fetches_corrupt"] > 0
    assert counters["loaded"] == 0
