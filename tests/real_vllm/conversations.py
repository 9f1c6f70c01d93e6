"""Conversations over shared documents, and what a model answers when nothing is cached."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

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
    """Draws the conversations and lets an engine without any cache answer them.

    Where an answer hinges on rounding, which differs with what else is in the batch, no cache can
    be held to it: only conversations are kept that get the same answers alone.
    """
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
    turns = list(zip(first, first_answers, second, answer(second), strict=True))
    stable = [turn for turn in turns if answer([turn[0]]) + answer([turn[2]]) == [turn[1], turn[3]]]
    assert len(stable) > len(turns) // 2, "the model's answers hinge on rounding"
    return Workload(*map(list, zip(*stable, strict=True)))


def random_ids(rng: random.Random, length: int) -> Ids:
    return rng.choices(range(3, VOCAB_SIZE), k=length)
