"""Loads that fail, requests that go away, blocks that are taken away: never a wrong token.

Where a guard stands between vLLM and a wrong answer, the test is run once more with the guard taken
out (`interventions.py`), and must then see what it guards against.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload, random_ids, right_or_ended
from vllm_harness import VllmHost, connector

LONG_ANSWER = 120
FEW_BLOCKS = 34  # of 32 tokens: no room for two of the longest prompts and their answers


@pytest.fixture(scope="module")
def workload(workload_for: Callable[..., Workload]) -> Workload:
    return workload_for("mha", "float32")


@pytest.fixture(scope="module")
def long_answers(host: VllmHost, models: dict[str, Path]) -> list[tuple[Ids, Ids]]:
    """More than the blocks can hold to the end, with their answers where there is room."""
    rng = random.Random(5)
    prompts = [random_ids(rng, rng.randrange(180, 220)) for _ in range(4)]
    host.start(models["mha"])
    answers = host.generate(prompts=prompts, max_tokens=LONG_ANSWER)
    return [(prompt, answer["ids"]) for prompt, answer in zip(prompts, answers, strict=True)]


def ask(host: VllmHost, prompt: Ids, **wishes: Any) -> dict[str, Any]:
    (answer,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS, **wishes)
    return answer


def assert_nothing_is_left(host: VllmHost) -> None:
    assert host.settle()
    state = host.state()
    assert state["pending"] == state["requests"] == state["uses"] == state["writing"] == 0
    assert state["levels"]["pins"] == 0
    assert state["free_blocks"] == state["num_blocks"] - 1


@pytest.mark.parametrize("loads", ["async", "sync"])
@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_a_load_that_fails(
    host: VllmHost, models: dict[str, Path], workload: Workload, loads: str, policy: str
) -> None:
    host.start(models["mha"], connector(loads=loads, policy=policy))
    host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
    host.settle()
    host.reset_prefix_cache()
    host.fault(kind="load", nth=2, fail=True)

    answers = host.generate(prompts=workload.second, max_tokens=MAX_NEW_TOKENS)

    assert host.state()["counters"]["loads_failed"] > 0
    right = right_or_ended(answers, workload.second_answers)
    assert all(right) if policy == "recompute" else 0 < sum(right) < len(right)
    assert_nothing_is_left(host)


@pytest.mark.parametrize(
    "guards_out",
    [[], ["store_after_failed_loads"], ["store_after_failed_loads", "believe_all_stores"]],
    ids=["guarded", "worker unheard", "guards out"],
)
def test_what_is_computed_on_a_failed_load_is_not_stored(
    host: VllmHost, models: dict[str, Path], workload: Workload, guards_out: list[str]
) -> None:
    """The step whose synchronous load fails computes the rest of the prompt on garbage, and the
    next step, scheduled before anybody knows, would store it. Of another connector's load the
    worker never hears: the scheduler's guard suffices.

    The policy is to fail: to recompute, after scheduling ahead, ends vLLM 0.32's engine.
    """
    host.start(
        models["mha"],
        connector(loads="sync", policy="fail"),
        num_gpu_blocks_override=FEW_BLOCKS,
        async_scheduling=True,
    )
    for name in guards_out:
        host.intervene(name=name)
    prompt, expected = workload.second[2], workload.second_answers[2]
    ask(host, prompt[:200])
    host.settle()
    ask(host, [9] * 900)  # other KV in all blocks
    host.reset_prefix_cache()
    host.fault(kind="load", fail=True)

    assert ask(host, prompt)["finish_reason"] == "error"

    host.settle()
    host.reset_prefix_cache()
    again = ask(host, prompt)
    assert again["cached_tokens"] >= 192
    assert (again["ids"] == expected) is (len(guards_out) < 2)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard out"])
def test_blocks_are_not_overwritten_while_a_store_reads_them(
    host: VllmHost, models: dict[str, Path], workload: Workload, guarded: bool
) -> None:
    """A request ends, its blocks are freed, and the next request gets them at once."""
    host.start(models["mha"], connector(), num_gpu_blocks_override=FEW_BLOCKS)
    host.intervene(name="begin_stores_late")
    if not guarded:
        host.intervene(name="overwrite_what_is_stored")
    rng = random.Random(3)
    order = [2, 5, 3, 6, 4]
    for i in order:
        assert ask(host, workload.first[i])["ids"] == workload.first_answers[i]
        ask(host, random_ids(rng, 990))  # takes all blocks
    host.settle()
    host.reset_prefix_cache()

    right = [ask(host, workload.second[i])["ids"] == workload.second_answers[i] for i in order]

    assert host.state()["counters"]["loaded"] > 0
    assert all(right) is guarded


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard out"])
def test_abort_while_a_load_is_under_way(
    host: VllmHost, models: dict[str, Path], workload: Workload, guarded: bool
) -> None:
    host.start(models["mha"], connector())
    if not guarded:
        host.intervene(name="forget_loads_of_aborted")
    ask(host, workload.first[-1])
    host.settle()
    host.reset_prefix_cache()
    free_blocks = host.state()["free_blocks"]
    host.hold(kind="load")
    host.submit(request_id="gone", prompt=workload.second[-1], max_tokens=MAX_NEW_TOKENS)
    host.step(num_steps=3)
    assert host.state()["free_blocks"] < free_blocks

    host.abort(request_id="gone")

    host.release()
    host.settle()
    host.step(num_steps=3)
    assert (host.state()["free_blocks"] == free_blocks) is guarded
    if guarded:
        assert_nothing_is_left(host)
        assert ask(host, workload.second[-1])["ids"] == workload.second_answers[-1]


def test_abort_of_a_request_that_waits_for_the_disk_or_runs(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    host.start(models["mha"], connector(disk=tmp_path))
    ask(host, workload.first[-1])
    host.settle()
    host.start(models["mha"], connector(disk=tmp_path))
    host.hold(kind="fetch")
    host.submit(request_id="waits", prompt=workload.second[-1], max_tokens=MAX_NEW_TOKENS)
    host.submit(request_id="runs", prompt=workload.first[2], max_tokens=200)
    host.step(num_steps=4)

    host.abort(request_id="waits")
    host.abort(request_id="runs")

    host.release()
    host.step(num_steps=3)
    assert_nothing_is_left(host)
    assert ask(host, workload.second[-1])["ids"] == workload.second_answers[-1]


@pytest.mark.parametrize("ahead", [False, True], ids=["in step", "scheduling ahead"])
def test_preempted_requests_go_on_rightly(
    host: VllmHost, models: dict[str, Path], long_answers: list[tuple[Ids, Ids]], ahead: bool
) -> None:
    host.start(
        models["mha"], connector(), num_gpu_blocks_override=FEW_BLOCKS, async_scheduling=ahead
    )
    host.intervene(name="begin_stores_late")

    answers = host.generate(prompts=[prompt for prompt, _ in long_answers], max_tokens=LONG_ANSWER)

    assert host.state()["preemptions"] > 0
    assert [answer["ids"] for answer in answers] == [expected for _, expected in long_answers]
    assert_nothing_is_left(host)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard out"])
def test_preempted_while_stores_are_under_way(
    host: VllmHost, models: dict[str, Path], long_answers: list[tuple[Ids, Ids]], guarded: bool
) -> None:
    """What the stores read is computed anew, in other blocks, before they have read it."""
    host.start(models["mha"], connector(), num_gpu_blocks_override=FEW_BLOCKS)
    host.intervene(name="begin_stores_late")
    if not guarded:
        host.intervene(name="overwrite_what_is_stored")
    for number, (prompt, _) in enumerate(long_answers):
        host.submit(request_id=str(number), prompt=prompt, max_tokens=MAX_NEW_TOKENS)
    host.step(num_steps=2)

    host.reset_prefix_cache(reset_running=True)

    while host.step():
        pass
    answers = host.take_finished()
    host.settle()
    host.reset_prefix_cache()
    assert host.state()["preemptions"] == len(long_answers)
    again = [ask(host, prompt) for prompt, _ in long_answers]
    assert all(answer["cached_tokens"] >= 128 for answer in again)
    right = [
        answers[str(number)]["ids"] == again[number]["ids"] == expected[:MAX_NEW_TOKENS]
        for number, (_, expected) in enumerate(long_answers)
    ]
    assert all(right) is guarded


def test_what_a_preempted_request_had_computed_is_loaded(
    host: VllmHost, models: dict[str, Path], long_answers: list[tuple[Ids, Ids]]
) -> None:
    host.start(models["mha"], connector())
    for number, (prompt, _) in enumerate(long_answers):
        host.submit(request_id=str(number), prompt=prompt, max_tokens=LONG_ANSWER)
    host.step(num_steps=LONG_ANSWER // 2)

    host.reset_prefix_cache(reset_running=True)  # preempts all, and the device forgets

    while host.step():
        pass
    answers = host.take_finished()
    assert host.state()["preemptions"] == len(long_answers)
    for number, (_, expected) in enumerate(long_answers):
        assert answers[str(number)]["ids"] == expected
    least = sum((len(prompt) + LONG_ANSWER // 2 - 2) // 64 * 64 for prompt, _ in long_answers)
    assert host.state()["counters"]["loaded"] >= least
    assert_nothing_is_left(host)


@pytest.mark.parametrize(("level", "mode"), [(0, "keep"), (0, "abort"), (1, "abort"), (2, "keep")])
def test_sleep_while_copies_are_under_way(
    host: VllmHost,
    models: dict[str, Path],
    long_answers: list[tuple[Ids, Ids]],
    level: int,
    mode: str,
) -> None:
    """As far as there is sleep without sleep mode: no memory goes away."""
    host.start(models["mha"], connector())
    kept, other = long_answers[:2]
    ask(host, kept[0])
    host.settle()
    host.fault(kind="store", delay_s=0.2)
    host.submit(request_id="runs", prompt=other[0], max_tokens=LONG_ANSWER)
    host.step(num_steps=3)
    if not level:
        host.reset_prefix_cache(reset_running=True)
        host.fault(kind="load", delay_s=0.2)
        host.submit(request_id="waits", prompt=kept[0], max_tokens=LONG_ANSWER)
        host.step(num_steps=2)

    host.sleep(level=level, mode=mode)
    host.wake_up()

    for request_id in ("runs", "waits") if mode == "abort" else ():
        host.abort(request_id=request_id)  # the engine has; only a server tells who asked
    while host.step():
        pass
    if mode == "keep":
        expected = {"runs": other[1]} | ({} if level else {"waits": kept[1]})
        answers = {name: answer["ids"] for name, answer in host.take_finished().items()}
        assert answers == expected
    assert_nothing_is_left(host)
    again = ask(host, kept[0])
    assert again["ids"] == kept[1][:MAX_NEW_TOKENS]
    assert (again["cached_tokens"] > 0) is (level == 0)


def test_resetting_the_prefix_cache(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    host.start(models["mha"], connector(disk=tmp_path))
    prompt = workload.first[-1]
    ask(host, prompt)
    host.settle()

    host.reset_prefix_cache()
    assert ask(host, prompt)["cached_tokens"] > 0

    host.reset_prefix_cache(reset_connector=True)
    assert ask(host, prompt)["cached_tokens"] == 0
    host.settle()
    host.reset_prefix_cache(reset_connector=True)
    assert host.settle()
    host.start(models["mha"], connector(disk=tmp_path))
    answer = ask(host, prompt)
    assert answer["cached_tokens"] == 0
    assert answer["ids"] == workload.first_answers[-1]
