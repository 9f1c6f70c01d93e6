"""Models whose layers attend to windows of different lengths: kept group by group of layers.

vLLM takes blocks back as soon as they have left a window, so what is stored late, or of the wrong
group, gives wrong tokens; the controls here see that.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload, random_ids, right_or_ended
from redis_server import RedisServer
from vllm_harness import TELLS_SOURCES, VllmHost, cached_by_source, connector

pytestmark = pytest.mark.skipif(
    not TELLS_SOURCES, reason="vLLM 0.27 cannot be told that a load of several groups failed"
)


@pytest.fixture(scope="module")
def workload(workload_for: Callable[..., Workload]) -> Workload:
    return workload_for("hybrid", "float32")


@pytest.fixture(scope="module")
def model(models: dict[str, Path]) -> Path:
    return models["hybrid"]


def generate(host: VllmHost, prompts: list[Ids]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = host.generate(prompts=prompts, max_tokens=MAX_NEW_TOKENS)
    return answers


def ids_of(answers: list[dict[str, Any]]) -> list[Ids]:
    return [answer["ids"] for answer in answers]


def keep_first_turns(host: VllmHost, workload: Workload) -> None:
    """After this the device has forgotten what is kept."""
    assert ids_of(generate(host, workload.first)) == workload.first_answers
    assert host.settle()
    host.reset_prefix_cache()


def assert_nothing_is_left(host: VllmHost) -> None:
    assert host.settle()
    state = host.state()
    assert state["pending"] == state["requests"] == state["uses"] == state["writing"] == 0
    assert state["levels"]["pins"] == 0
    assert state["free_blocks"] == state["num_blocks"] - 1


def test_answers_differ_where_groups_get_each_others_kv(
    host: VllmHost, model: Path, workload: Workload
) -> None:
    host.start(model, connector())
    keep_first_turns(host, workload)
    host.intervene(name="load_groups_crosswise")

    answers = generate(host, workload.second)

    wrong = [
        answer["ids"] != expected
        for answer, expected in zip(answers, workload.second_answers, strict=True)
    ]
    assert sum(wrong) >= len(wrong) // 2


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard out"])
def test_what_has_left_a_window_is_not_stored(
    host: VllmHost, model: Path, workload: Workload, guarded: bool
) -> None:
    """Nothing is stored before the end, when the first blocks hold others' KV."""
    prompt = workload.first[2]
    beginning = prompt[:70]
    host.start(model)
    expected = ids_of(generate(host, [beginning]))
    host.start(
        model,
        connector(),
        max_model_len=544,
        max_num_batched_tokens=96,
        num_gpu_blocks_override=40,
    )
    host.intervene(name="store_at_the_end_only")
    if not guarded:
        host.intervene(name="store_what_has_left_the_window")
    assert ids_of(generate(host, [prompt])) == [workload.first_answers[2]]
    host.settle()
    host.reset_prefix_cache()

    answers = generate(host, [beginning])

    assert (ids_of(answers) == expected) is guarded
    assert (answers[0]["cached_tokens"] == 0) is guarded


def test_what_left_the_window_of_a_request_that_found_no_blocks_is_stored_in_time(
    host: VllmHost, models: dict[str, Path]
) -> None:
    """vLLM looks for blocks for the second half of a prompt, takes back what has left the window,
    and finds too few. Whoever runs last is in a step under way, so nobody is preempted, and the
    next request of the queue gets what the prompt gave.
    """
    rng = random.Random(3)
    other, prompt, short, next_one = (random_ids(rng, length) for length in (200, 300, 20, 200))
    beginning = prompt[:40]
    host.start(models["windows"], enable_prefix_caching=False)
    expected = ids_of(generate(host, [beginning]))
    host.start(
        models["windows"],
        connector(),
        max_model_len=320,
        max_num_batched_tokens=len(other) + 64,
        num_gpu_blocks_override=12,
        scheduler_reserve_full_isl=False,
        async_scheduling=True,
    )
    unseen = {"radixkv": {"read": False, "write": False}}
    host.submit(request_id="0", prompt=other, max_tokens=3, kv_transfer_params=unseen)
    host.submit(request_id="1", prompt=prompt, max_tokens=1)
    host.submit(request_id="2", prompt=short, max_tokens=1, kv_transfer_params=unseen)
    host.submit(request_id="3", prompt=next_one, max_tokens=1, kv_transfer_params=unseen)
    while host.step():
        pass
    host.take_finished()
    host.settle()
    host.reset_prefix_cache()

    answers = generate(host, [beginning])

    assert host.state()["preemptions"] == 0
    assert answers[0]["cached_tokens"] == 32
    assert ids_of(answers) == expected


@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_a_load_of_one_group_fails(
    host: VllmHost, model: Path, workload: Workload, policy: str
) -> None:
    host.start(model, connector(policy=policy))
    keep_first_turns(host, workload)
    host.fault(kind="load", nth=2, fail=True)

    answers = generate(host, workload.second)

    assert host.state()["counters"]["loads_failed"] > 0
    right = right_or_ended(answers, workload.second_answers)
    assert all(right) if policy == "recompute" else 0 < sum(right) < len(right)
    assert_nothing_is_left(host)


@pytest.mark.parametrize("loads", ["async", "sync"])
def test_a_load_fails_where_every_layer_has_a_window(
    host: VllmHost, models: dict[str, Path], workload: Workload, loads: str
) -> None:
    prompts = [prompt[:length] for prompt in workload.first[2:] for length in (97, 129, 161)]
    host.start(models["windows"], enable_prefix_caching=False)
    expected = ids_of(generate(host, prompts))
    host.start(models["windows"], connector(loads=loads))
    generate(host, prompts)
    host.settle()
    host.reset_prefix_cache()
    for nth in range(1, 7):
        host.fault(kind="load", nth=nth, fail=True)

    answers = generate(host, prompts)

    # What the window reaches before the lost blocks was not loaded either: all is to be computed.
    assert host.state()["counters"]["loads_failed"] > 0
    assert ids_of(answers) == expected
    assert_nothing_is_left(host)


def test_requests_that_go_away_while_their_loads_are_under_way(
    host: VllmHost, model: Path, workload: Workload
) -> None:
    host.start(model, connector())
    keep_first_turns(host, workload)
    host.fault(kind="load", nth=3, delay_s=0.2)
    for number, prompt in enumerate(workload.second):
        host.submit(request_id=str(number), prompt=prompt, max_tokens=MAX_NEW_TOKENS)
    host.step(num_steps=2)

    for number in (2, 3, 5):
        host.abort(request_id=str(number))

    while host.step():
        pass
    answers = host.take_finished()
    for number, expected in enumerate(workload.second_answers):
        assert number in (2, 3, 5) or answers[str(number)]["ids"] == expected
    assert_nothing_is_left(host)


def test_preempted_requests_go_on_rightly(host: VllmHost, model: Path, workload: Workload) -> None:
    host.start(model, connector(), max_num_batched_tokens=256)
    apart = (1, 2, 5)  # none finds what another has stored: vLLM preempts nobody who waits for it
    for number in apart:
        host.submit(
            request_id=str(number), prompt=workload.first[number], max_tokens=MAX_NEW_TOKENS
        )
    host.step(num_steps=6)

    host.reset_prefix_cache(reset_running=True)  # preempts all, and the device forgets

    while host.step():
        pass
    answers = host.take_finished()
    assert host.state()["preemptions"] > 0
    assert host.state()["counters"]["loaded"] > 0
    for number in apart:
        assert answers[str(number)]["ids"] == workload.first_answers[number]
    assert_nothing_is_left(host)


def test_the_next_engine_finds_all_groups_on_the_disk(
    host: VllmHost, model: Path, workload: Workload, tmp_path: Path
) -> None:
    settings = connector(disk=tmp_path)
    host.start(model, settings)
    keep_first_turns(host, workload)
    host.start(model, settings)

    (answer,) = generate(host, [workload.second[-1]])

    assert answer["ids"] == workload.second_answers[-1]
    assert answer["cached_tokens"] >= len(workload.first[-1]) // 32 * 32
    assert cached_by_source(host.metrics()) == {"disk": answer["cached_tokens"]}


def test_another_engine_finds_all_groups_on_a_server(
    host: VllmHost, model: Path, workload: Workload, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path)
    settings = connector(remotes=[f"{server.unix_url}?timeout=5s"], prefetch={"deadline": "60s"})
    host.start(model, settings)
    keep_first_turns(host, workload)
    host.start(model, settings)

    # The one that counts comes first: later rates are known, and may advise against bringing it.
    (last,) = generate(host, workload.second[-1:])
    others = generate(host, workload.second[:-1])

    server.close()
    assert ids_of([*others, last]) == workload.second_answers
    assert last["cached_tokens"] >= len(workload.first[-1]) // 64 * 64
    assert cached_by_source(host.metrics())["external_unspecified"] > 0
    assert_nothing_is_left(host)
