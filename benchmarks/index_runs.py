"""How long does it take to find what is kept of a text anywhere, and how much room does that take?

100 million tokens are kept, in prompts of 131,072: random ones, or ones that repeat themselves, all
made of a thousand paragraphs of 300 tokens with a few tokens of their own between. 32,768 tokens
are asked for that share eight runs with them. The lag is the time from a prompt's insertion until
`find_runs` knows it. Run by `index.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from harness import emit, progress
from numpy.typing import NDArray

from radixkv import RadixIndex

Tokens = NDArray[np.uint32]
Make = Callable[[np.random.Generator, int], Tokens]  # so many tokens of text

NUM_TOKENS = 100_000_000
PROMPT_TOKENS = 131_072
ASKED_TOKENS = 32_768
MIN_LENGTH = 64
VOCABULARY = 128_000
PARAGRAPHS = 1000
PARAGRAPH_TOKENS = 300
NUM_ASKED = 15


def random_text(rng: np.random.Generator, num_tokens: int) -> Tokens:
    return rng.integers(0, VOCABULARY, num_tokens, dtype=np.uint32)


class Repetitive:
    """Texts of the same paragraphs in another order."""

    def __init__(self) -> None:
        self.paragraphs = random_text(np.random.default_rng(7), PARAGRAPHS * PARAGRAPH_TOKENS)

    def __call__(self, rng: np.random.Generator, num_tokens: int) -> Tokens:
        texts = self.paragraphs.reshape(PARAGRAPHS, PARAGRAPH_TOKENS)
        parts: list[Tokens] = []
        for number in rng.integers(0, PARAGRAPHS, num_tokens // PARAGRAPH_TOKENS + 1):
            parts += [random_text(rng, int(rng.integers(1, 8))), texts[number]]
        return np.concatenate(parts)[:num_tokens]


def fill(index: RadixIndex, make: Make) -> tuple[list[Tokens], list[float]]:
    """Prompts that are kept now, and how long each of them took to be found."""
    rng = np.random.default_rng(1)
    prompts: list[Tokens] = []
    lags_ms = []
    for number in range(NUM_TOKENS // PROMPT_TOKENS):
        prompt = make(rng, PROMPT_TOKENS)
        index.insert(prompt, time=number)
        if number % 50:
            continue
        index.wait_for_runs()  # for what came before
        fresh = make(rng, PROMPT_TOKENS)
        begin = time.perf_counter()
        index.insert(fresh, time=number)
        while index.run_stats().num_waiting:
            time.sleep(0.001)
        lags_ms.append((time.perf_counter() - begin) * 1000)
        prompts.append(fresh)
    assert index.wait_for_runs(600)
    return prompts, lags_ms


def measure(name: str, make: Make) -> None:
    index = RadixIndex()
    index.index_runs(MIN_LENGTH)
    prompts, lags_ms = fill(index, make)
    stats = index.stats()
    progress(f"  {stats.tokens} tokens, {index.run_stats().num_grams} grams")
    rng = np.random.default_rng(5)
    times_ms, shares = [], []
    for _ in range(NUM_ASKED):
        parts = [random_text(rng, 100)]
        for _ in range(8):
            prompt = prompts[int(rng.integers(len(prompts)))]
            first = int(rng.integers(PROMPT_TOKENS - 4000))
            parts += [prompt[first : first + int(rng.integers(500, 4000))], random_text(rng, 50)]
        rest = ASKED_TOKENS - sum(len(part) for part in parts)
        asked = np.concatenate([*parts, make(rng, max(rest, 0))])[:ASKED_TOKENS]
        begin = time.perf_counter()
        found = index.find_runs(asked)
        times_ms.append((time.perf_counter() - begin) * 1000)
        for number, part in enumerate(parts[1::2]):
            assert found.num_tokens.max() >= len(part) or found.truncated, number
        shares.append(found.truncated)
    emit(
        f"index.find_runs_32k_{name}_ms",
        times_ms,
        "ms",
        p99=float(f"{max(times_ms):.4g}"),
        truncated=statistics.mean(shares),
        kept_tokens=stats.tokens,
    )
    per_token = index.run_stats().num_bytes / stats.tokens
    kind = "" if name == "random" else f"{name}_"
    emit(f"index.find_runs_{kind}bytes_per_token", [per_token], "B")
    emit(f"index.find_runs_{kind}lag_ms", lags_ms, "ms", p99=float(f"{max(lags_ms):.4g}"))


KINDS: dict[str, Callable[[], Make]] = {"random": lambda: random_text, "repetitive": Repetitive}


def run(name: str) -> None:
    """The rows of one kind of text."""
    progress(f"runs in {name} text: building")
    measure(name, KINDS[name]())
