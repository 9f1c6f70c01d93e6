"""Conversations over shared documents, and what a model answers when nothing is cached."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglang_models import VOCAB_SIZE

Ids = list[int]

MAX_NEW_TOKENS = 16
CLOSE_CALL = 0.13  # of log-probability: two steps of such logits in bfloat16
DOCUMENT_LENGTHS = (411, 170)
USERS_PER_DOCUMENT = 3
LONE_LENGTHS = (16, 77)  # shorter than a block, shorter than two chunks


@dataclass(frozen=True, slots=True)
class Workload:
    """Two turns of every conversation, each prompt with the tokens that must come back for it."""

    first: list[Ids]
    first_answers: list[Ids]
    second: list[Ids]
    second_answers: list[Ids]


Answer = Callable[[list[Ids]], list[dict[str, Any]]]


def make_workload(answer: Answer, seed: int = 11) -> Workload:
    """Draws the conversations and lets an engine without any cache answer them.

    Args:
        answer: Gives `vllm_host.Host`'s answers; with `margins` only what is sure counts.
        seed: Of the conversations.
    """
    rng = random.Random(seed)
    first = [random_ids(rng, length) for length in LONE_LENGTHS]
    for length in DOCUMENT_LENGTHS:
        document = random_ids(rng, length)
        for _ in range(USERS_PER_DOCUMENT):
            first.append([*document, *random_ids(rng, rng.randrange(9, 70))])
    first_answers = answer(first)
    second = [
        [*ids, *given["ids"], *random_ids(rng, rng.randrange(9, 50))]
        for ids, given in zip(first, first_answers, strict=True)
    ]
    workload = Workload(first, sure_ids(first_answers), second, sure_ids(answer(second)))
    num_sure = sum(map(len, workload.first_answers + workload.second_answers))
    assert num_sure > len(first) * MAX_NEW_TOKENS // 3, "the model's answers hinge on rounding"
    return workload


def sure_ids(answers: list[dict[str, Any]]) -> list[Ids]:
    """Each answer up to the first token that hinges on rounding.

    In bfloat16 it does where the next token was nearly as likely: what is found changes what is
    computed in one batch, and no cache can be held to that.
    """
    found = []
    for answer in answers:
        unsure = [number for number, margin in enumerate(answer["margins"]) if margin < CLOSE_CALL]
        found.append(answer["ids"][: unsure[0] if unsure else None])
    return found


def begins_as(answers: list[dict[str, Any]], expected: list[Ids]) -> bool:
    """Whether each answer begins with all that is expected of it."""
    pairs = zip(answers, expected, strict=True)
    return all(answer["ids"][: len(ids)] == ids for answer, ids in pairs)


def right_or_ended(answers: list[dict[str, Any]], expected: list[Ids]) -> list[bool]:
    """Which answers are as expected; all others, and no more, must have ended with an error."""
    right = [answer["ids"] == ids for answer, ids in zip(answers, expected, strict=True)]
    assert right == [answer["finish_reason"] != "error" for answer in answers]
    return right


def answer_all(
    host: Any, prompts: list[Ids], *, together: bool = True, weigh: bool = False
) -> list[dict[str, Any]]:
    """An engine's answers to prompts that are all queued at once, or one at a time."""
    batches = [prompts] if together else [[prompt] for prompt in prompts]
    found = []
    for batch in batches:
        found += host.generate(prompts=batch, max_tokens=MAX_NEW_TOKENS, weigh=weigh)
    return found


def assert_second_turns_reuse_the_first(host: Any, workload: Workload) -> None:
    """The device is emptied in between."""
    host.generate(prompts=workload.first, max_tokens=MAX_NEW_TOKENS)
    host.settle()
    host.reset_prefix_cache()

    answers = host.generate(prompts=workload.second, max_tokens=MAX_NEW_TOKENS)

    assert [answer["ids"] for answer in answers] == workload.second_answers
    assert sum(answer["cached_tokens"] for answer in answers) > 0


def random_ids(rng: random.Random, length: int) -> Ids:
    return rng.choices(range(3, VOCAB_SIZE), k=length)
