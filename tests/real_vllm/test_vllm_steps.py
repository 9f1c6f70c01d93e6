"""Many requests at once: no step has all their stores to plan, and nothing is lost by that."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, random_ids
from vllm_harness import VllmHost, connector

NUM_REQUESTS = 40
MANY = {"max_num_seqs": NUM_REQUESTS, "max_num_batched_tokens": 4096}


@pytest.fixture(scope="module")
def prompts() -> list[Ids]:
    """Each has one full chunk, and shares nothing with the others."""
    rng = random.Random(17)
    return [random_ids(rng, 70) for _ in range(NUM_REQUESTS)]


def submit(host: VllmHost, prompts: list[Ids], max_tokens: int) -> None:
    for number, prompt in enumerate(prompts):
        host.submit(request_id=str(number), prompt=prompt, max_tokens=max_tokens)


def generate(host: VllmHost, prompts: list[Ids], **wishes: Any) -> list[dict[str, Any]]:
    """Answers where the device has nothing."""
    host.reset_prefix_cache()
    answers: list[dict[str, Any]] = host.generate(prompts=prompts, **wishes)
    return answers


def test_a_step_begins_a_few_stores_and_the_next_ones_the_rest(
    host: VllmHost, models: dict[str, Path], prompts: list[Ids]
) -> None:
    host.start(models["mha"], connector(), **MANY)
    submit(host, prompts, MAX_NEW_TOKENS)
    host.step()

    num_issued = []
    for _ in range(4):
        host.step()
        num_issued.append(host.state()["issued"])

    assert num_issued == [16, 32, NUM_REQUESTS, NUM_REQUESTS]
    while host.step():
        pass
    answers = host.take_finished()
    assert host.settle()
    for number, prompt in enumerate(prompts):
        conversation = prompt + answers[str(number)]["ids"]
        num_blocks = (len(conversation) - 1) // 32
        assert host.kept_tokens(prompt=conversation)["memory"] == num_blocks * 32


@pytest.mark.parametrize("ahead", [False, True], ids=["in step", "scheduling ahead"])
def test_what_was_decoded_is_stored_by_the_time_a_request_is_preempted(
    host: VllmHost, models: dict[str, Path], prompts: list[Ids], ahead: bool
) -> None:
    blocks = NUM_REQUESTS * 6 + 2  # at 192 tokens each the last requests have to make room
    host.start(
        models["mha"], connector(), num_gpu_blocks_override=blocks, async_scheduling=ahead, **MANY
    )
    submit(host, prompts, max_tokens=200)
    host.step(num_steps=100)
    assert host.state()["issued"] == NUM_REQUESTS  # a chunk was decoded, and waits for another

    while not host.state()["preemptions"]:
        assert host.step()

    for number in range(NUM_REQUESTS):
        host.abort(request_id=str(number))  # so the end stores nothing
    assert host.settle()
    few = prompts[-3:]
    unseen = {"radixkv": {"read": False, "write": False}}
    expected = [
        answer["ids"] for answer in generate(host, few, max_tokens=100, kv_transfer_params=unseen)
    ]
    begun = [prompt + ids[:70] for prompt, ids in zip(few, expected, strict=True)]
    answers = generate(host, begun, max_tokens=MAX_NEW_TOKENS)
    assert [answer["cached_tokens"] for answer in answers] == [128] * len(few)
    assert [answer["ids"] for answer in answers] == [ids[70:86] for ids in expected]
