"""What is asked: a conversation over Python's own manual. (`trace.py` has recorded prompts.)"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Mapping, Sequence
from typing import Protocol

from .model import SYSTEM_PROMPT, Model

Ids = list[int]
Answers = Mapping[int, Ids]  # what the model said, by the number of the turn


class Workload(Protocol):
    """A list of turns. The prompt of a turn may hold the answers of earlier ones."""

    titles: list[str]

    def prompt(self, turn: int, answers: Answers) -> Ids:
        """The tokens to send. `answers` has every turn that this one continues."""


# Who asks what about which page of the manual. A page asked about by several people is a shared
# prefix; a follow-up continues its own conversation; coming back late finds a device that has long
# been given to others.
SCRIPT = (
    ("ada", "try", "When is the else clause executed?"),
    ("ada", "try", "And the finally clause?"),
    ("ben", "try", "What does an except clause without an expression match?"),
    ("ben", "function", "When are default parameter values evaluated?"),
    ("cleo", "async", "Where may await be used?"),
    ("ben", "function", "Are decorators called when the function is defined?"),
    ("cleo", "objects", "Which objects can change their value?"),
    ("ada", "try", "What happens to the name of an exception after its clause?"),
    ("ben", "async", "What does async for need to work?"),
    ("ada", "calls", "What does the syntax *expression do in a call?"),
    ("cleo", "function", "What are annotations of parameters for?"),
    ("cleo", "objects", "What does the is operator compare?"),
    ("ben", "try", "May return stand in a finally clause?"),
    ("cleo", "async", "May async with stand outside of a coroutine?"),
)


class Conversation:
    """Several people ask about pages of the manual; each asks on where he left off."""

    def __init__(self, model: Model) -> None:
        self.titles = [f"{who} · {topic}: {question}" for who, topic, question in SCRIPT]
        self._model = model

    def prompt(self, turn: int, answers: Answers) -> Ids:
        encode = self._model.encode
        who, topic, _ = SCRIPT[turn]
        ids = encode(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n")
        page = f"Page of the manual:\n\n{pydoc_data.topics.topics[topic].strip()}\n\n"
        for earlier in range(turn + 1):
            if SCRIPT[earlier][:2] != (who, topic):
                continue
            question = SCRIPT[earlier][2]
            # The question is encoded apart from the page, so that equal pages are equal tokens.
            ids += encode(f"<|im_start|>user\n{page}") + encode(question)
            ids += encode("<|im_end|>\n<|im_start|>assistant\n")
            page = ""
            if earlier < turn:
                ids += answers.get(earlier, []) + encode("<|im_end|>\n")
        return ids


def count_distinct_tokens(prompts: Sequence[Ids]) -> int:
    """Tokens that differ in themselves or in what precedes them: what a perfect cache keeps."""
    total = 0
    previous: Ids = []
    for prompt in sorted(prompts):
        shared = 0
        for a, b in zip(previous, prompt, strict=False):
            if a != b:
                break
            shared += 1
        total += len(prompt) - shared
        previous = prompt
    return total
