"""Conversations over shared prefixes, and what the models answer when nothing is cached.

Many users ask about few documents under few system prompts, twice each: what the second question
needs again is by then spread over all tiers. Lengths are odd on purpose: prompts part inside pages
and inside chunks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_harness import SGLangServer, outputs
from sglang_models import VOCAB_SIZE

Ids = list[int]

SYSTEM_LENGTHS = (151, 97, 211, 130)
DOCUMENTS_PER_SYSTEM = 4
USERS_PER_DOCUMENT = 6
NUM_REPEATS = 16
MAX_NEW_TOKENS = 8
BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and the tokens that must come back for it."""

    ids: Ids
    expected: Ids


@dataclass(frozen=True, slots=True)
class Workload:
    """All prompts of a run, in the order in which they are sent.

    Attributes:
        prompts: With what must come back.
        right_kv: Folder with the KV that a server without any cache computed for them and for their
            answers (`kv_reference.py` of `tests/sglang_cpu`); None where none was asked to.
    """

    prompts: list[Prompt]
    right_kv: Path | None = None

    def batches(self) -> Iterator[list[Prompt]]:
        for start in range(0, len(self.prompts), BATCH_SIZE):
            yield self.prompts[start : start + BATCH_SIZE]

    @property
    def num_distinct_tokens(self) -> int:
        """Tokens that differ in themselves or in what precedes them."""
        total = 0
        previous: Ids = []
        for ids in sorted(prompt.ids + prompt.expected for prompt in self.prompts):
            total += len(ids) - shared_length(previous, ids)
            previous = ids
        return total


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def make_workload(reference: SGLangServer, seed: int = 7) -> Workload:
    """Draws the conversations and lets a server without any cache answer them.

    208 prompts: 96 users ask, then in another order ask on, then 16 first questions come again.
    """
    rng = random.Random(seed)
    first = list(opening_prompts(rng))
    first_answers = answer_all(reference, first)

    second = [
        [*ids, *answer, *random_ids(rng, rng.randrange(9, 60))]
        for ids, answer in zip(first, first_answers, strict=True)
    ]
    second_answers = answer_all(reference, second)

    opening = [Prompt(*pair) for pair in zip(first, first_answers, strict=True)]
    later = [Prompt(*pair) for pair in zip(second, second_answers, strict=True)]
    rng.shuffle(later)
    return Workload([*opening, *later, *rng.sample(opening, NUM_REPEATS)])


def opening_prompts(rng: random.Random) -> Iterator[Ids]:
    """System prompt, document, question; users of a document come one after the other."""
    for system_length in SYSTEM_LENGTHS:
        system = random_ids(rng, system_length)
        for _ in range(DOCUMENTS_PER_SYSTEM):
            document = random_ids(rng, rng.randrange(90, 270))
            for _ in range(USERS_PER_DOCUMENT):
                yield [*system, *document, *random_ids(rng, rng.randrange(9, 60))]


def random_ids(rng: random.Random, length: int) -> Ids:
    return rng.choices(range(3, VOCAB_SIZE), k=length)


def answer_all(server: SGLangServer, prompts: Sequence[Ids]) -> list[Ids]:
    return outputs(server.generate(prompts, MAX_NEW_TOKENS, timeout_s=300.0))
