"""Who waits for a load: the request outside the batch, or the batch layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Workload
from vllm_harness import VllmHost, connector


@pytest.fixture(scope="module")
def workload(workload_for: Callable[..., Workload]) -> Workload:
    return workload_for("mha", "float32")


def finish(host: VllmHost) -> list[list[int]]:
    """Token ids of all requests that run, in the order of their names."""
    while host.step():
        pass
    return [answer["ids"] for _, answer in sorted(host.take_finished().items())]


def ask(host: VllmHost, prompt: list[int]) -> dict[str, Any]:
    (answer,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)
    return answer


def begin(host: VllmHost, prompts: list[list[int]]) -> int:
    """Queue prompts and run one step; gives the prompt tokens that it computes."""
    before = host.state()["prefilled_tokens"]
    for number, prompt in enumerate(prompts):
        host.submit(request_id=f"{number}", prompt=prompt, max_tokens=MAX_NEW_TOKENS)
    host.step()
    return int(host.state()["prefilled_tokens"]) - before


def test_the_batch_waits_for_the_load_of_a_request_that_is_alone(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    host.start(models["mha"], connector(loads="auto"))
    host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
    host.settle()

    host.reset_prefix_cache()
    assert begin(host, workload.second[:1]) > 0
    assert finish(host) == workload.second_answers[:1]
    host.reset_prefix_cache()
    assert begin(host, workload.second[:2]) == 0  # both are being loaded
    assert finish(host) == workload.second_answers[:2]
    assert host.state()["counters"]["loads_failed"] == 0


def test_a_request_that_is_alone_and_of_which_all_but_a_few_tokens_are_there(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    """On the device, and in memory. vLLM wants one token to be computed, "auto" wants two."""
    document = workload.first[-1]
    prompts = [document[: 3 * 32 + num_more] for num_more in (1, 2, 3)]
    host.start(models["mha"], enable_prefix_caching=False)
    expected = [ask(host, prompt)["ids"] for prompt in prompts]
    host.start(models["mha"], connector(loads="auto"))
    ask(host, document)
    host.settle()

    for prompt, ids in zip(prompts, expected, strict=True):
        on_device = ask(host, prompt)
        host.reset_prefix_cache()
        in_memory = ask(host, prompt)

        assert on_device["ids"] == in_memory["ids"] == ids
        assert on_device["cached_tokens"] == 96
        assert in_memory["cached_tokens"] == (len(prompt) - 2) // 32 * 32  # blocks of 32
    assert host.state()["counters"]["loads_failed"] == 0


def test_a_step_that_did_not_wait_for_its_load_counts_for_nothing(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    """As if a graph had been replayed that was captured whole, without the calls around layers."""
    host.start(models["mha"], connector(loads="sync"))
    prompt, expected = workload.second[2], workload.second_answers[2]
    host.generate(prompts=[prompt[:200]], max_tokens=1)
    host.settle()
    host.reset_prefix_cache()
    host.intervene(name="skip_layer_waits")

    answer = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)[0]

    assert answer["ids"] == expected
    assert host.state()["counters"]["loads_failed"] > 0
