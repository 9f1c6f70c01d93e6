"""Which ways of sharing prefixes are replayed beside the recorded ones?

    chat     people who come back to a conversation after a while, under one of a few system prompts
    rag      a question behind a document; a few documents are asked for far more often than others
    agents   tasks that go on for many steps in quick succession, all behind one long list of tools
    batch    a data set that is evaluated again and again, behind few-shot examples, between chats
    search   trees of attempts: each goes on from one of the last, or from any

Text is drawn per block of 64 tokens, so that a prompt is an array of block ids, as in Mooncake's
traces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from radixkv.replay import Request, Trace

BLOCK_TOKENS = 64
NUM_REQUESTS = 6000

Blocks = list[int]
Arrivals = Iterator[tuple[float, Blocks]]  # when, in seconds, and what


class Source:
    """Random numbers, and text that nobody wrote before."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._next = itertools.count()

    def text(self, mean_tokens: float) -> Blocks:
        """Fresh blocks, about so many tokens, at least one block."""
        count = 1 + self.rng.poisson(max(mean_tokens / BLOCK_TOKENS - 1, 0))
        return list(itertools.islice(self._next, int(count)))

    def zipf(self, count: int, exponent: float) -> int:
        """A number below `count`, the small ones likelier."""
        weights = 1.0 / np.arange(1, count + 1) ** exponent
        return int(self.rng.choice(count, p=weights / weights.sum()))

    def begins(self, per_second: float, until_s: float) -> Iterator[float]:
        """Times at which something begins, independent of each other."""
        now = float(self.rng.exponential(1 / per_second))
        while now < until_s:
            yield now
            now += float(self.rng.exponential(1 / per_second))


def chat(source: Source, until_s: float = 3500) -> Arrivals:
    """Conversations of a geometric number of turns, with log-normal times to think."""
    systems = [source.text(tokens) for tokens in (300, 1500, 800, 4000, 200, 2500)]
    for now in source.begins(1.0, until_s):
        prompt = systems[source.zipf(len(systems), 1.0)] + source.text(400)
        yield now, list(prompt)
        while source.rng.random() < 0.6:
            prompt += source.text(650)
            now += float(source.rng.lognormal(4.5, 1.5))
            yield now, list(prompt)


def rag(source: Source, until_s: float = 6500) -> Arrivals:
    """One of 1,500 documents of 3,000 tokens, and a question."""
    system = source.text(500)
    documents = [source.text(3000) for _ in range(1500)]
    for now in source.begins(1.0, until_s):
        yield now, system + documents[source.zipf(len(documents), 0.8)] + source.text(100)


def agents(source: Source, until_s: float = 5500) -> Arrivals:
    """Tasks of 3 to 40 steps, each step a tool's answer."""
    tools = source.text(6000)
    for now in source.begins(0.06, until_s):
        prompt = tools + source.text(1500)
        for _ in range(int(source.rng.integers(3, 40))):
            yield now, list(prompt)
            prompt += source.text(float(source.rng.choice([150, 600, 3000])))
            now += float(source.rng.exponential(15))


def batch(source: Source, until_s: float = 3000) -> Arrivals:
    """Chats, and every ten minutes 400 questions behind the same examples."""
    yield from chat(source, until_s)
    examples = source.text(5000)
    questions = [source.text(1500) for _ in range(400)]
    for begin in np.arange(100, until_s, 600):
        for number, question in enumerate(questions):
            yield float(begin) + number / 2, examples + question


def search(source: Source, until_s: float = 5500) -> Arrivals:
    """Problems of 60 attempts."""
    system = source.text(1200)
    for now in source.begins(0.02, until_s):
        known = [system + source.text(800)]
        for _ in range(60):
            back = min(int(source.rng.geometric(0.5)), len(known))
            if source.rng.random() < 0.2:
                back = int(source.rng.integers(1, len(known) + 1))
            known.append(known[-back] + source.text(300))
            now += float(source.rng.exponential(8))
            yield now, known[-1]


PATTERNS: dict[str, Callable[[Source], Arrivals]] = {
    pattern.__name__: pattern for pattern in (chat, rag, agents, batch, search)
}


def generate(name: str, seed: int) -> Trace:
    """The first `NUM_REQUESTS` requests of a pattern."""
    arrivals = sorted(PATTERNS[name](Source(seed)), key=lambda arrival: arrival[0])
    requests = [
        Request(np.array(blocks, np.uint32), len(blocks) * BLOCK_TOKENS, now)
        for now, blocks in arrivals[:NUM_REQUESTS]
    ]
    return Trace(name, requests, BLOCK_TOKENS)
