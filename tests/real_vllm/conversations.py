"""Conversations over shared documents, and what a model answers when nothing is cached."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglang_models import VOCAB_SIZE

Ids = list[int]

MAX_NEW_TOKENS = 16
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


def make_workload(answer: Callable[[list[Ids]], list[Ids]], seed: int = 11) -> Workload:
    """Draws the conversations and lets an engine without any cache answer them."""
    rng = random.Random(seed)
    first = [random_ids(rng, length) for length in LONE_LENGTHS]
    for length in DOCUMENT_LENGTHS:
        document = random_ids(rng, length)
        for _ in range(USERS_PER_DOCUMENT):
            first.append([*document, *random_ids(rng, rng.randrange(9, 70))])
    first_answers = answer(first)
    second = [
        [*ids, *given, *random_ids(rng, rng.randrange(9, 50))]
        for ids, given in zip(first, first_answers, strict=True)
    ]
    return Workload(first, first_answers, second, answer(second))


def without_close_calls(workload: Workload, answer: Callable[[list[Ids]], list[Ids]]) -> Workload:
    """The conversations that an engine which finds them on the device answers alike.

    What is found and what is computed beside it changes the rounding. Where an answer hinges on
    that, no cache can be held to it.
    """
    turns = zip(
        workload.first,
        workload.first_answers,
        workload.second,
        workload.second_answers,
        strict=True,
    )
    stable = [turn for turn in turns if answer([turn[0]]) + answer([turn[2]]) == [turn[1], turn[3]]]
    assert len(stable) > len(workload.first) // 3, "the model's answers hinge on rounding"
    return Workload(*map(list, zip(*stable, strict=True)))


def answer_all(host: Any, prompts: list[Ids], *, together: bool = True) -> list[dict[str, Any]]:
    """An engine's answers to prompts that are all queued at once, or one at a time."""
    batches = [prompts] if together else [[prompt] for prompt in prompts]
    found = []
    for batch in batches:
        found += host.generate(prompts=batch, max_tokens=MAX_NEW_TOKENS)
    return found


def random_ids(rng: random.Random, length: int) -> Ids:
    return rng.choices(range(3, VOCAB_SIZE), k=length)
