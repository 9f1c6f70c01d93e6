"""How long does the index take, and how much room, with a million chunks kept?

Three shapes of tree, each in a process of its own:

    long          prompts of 131,072 random tokens, one node each
    conversation  250 trees: a system prompt of 4,096 tokens, then turns of 300, each with a
                  regenerated sibling, so that a path has some 420 nodes
    shredded      long, but on the paths measured every chunk is split in its middle

A value is the median over cold calls: before each, a gigabyte is walked so that the tree leaves the
CPU's cache. Then the same call is made on a small tree, which brings the code back, and the
caller's tokens and the index's counters are read: they are not the tree. `hot` is the same call at
once again, and `threads_match_scaling` says what a second thread adds to such calls.
`index_runs.py` adds what finding runs takes, `index_saving.py` what saving does.
`bytes_per_chunk` is what the process grew by, less 4 bytes a token.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import index_runs
import index_saving
import lmcache_lookup
import numpy as np
from harness import emit, interleave, progress
from lmcache_lookup import LMCacheLookup
from numpy.typing import NDArray

from radixkv import RadixIndex

NUM_CHUNKS = 1_000_000
CHUNK_TOKENS = 64
PROMPT_TOKENS = 131_072
VOCABULARY = 128_000
FLUSH_BYTES = 1 << 30
THREAD_MATCHES = 1000
EVICT_BATCH = 64  # chunks; of one unit each here

Tokens = NDArray[np.uint32]
AnyTokens = NDArray[np.uint32] | NDArray[np.int64]


@dataclass
class Built:
    """A tree, the prompts to ask it for, and prompts that it does not have."""

    index: RadixIndex
    prompts: list[Tokens]
    bytes_per_chunk: float


def random_prompt(rng: np.random.Generator, num_tokens: int = PROMPT_TOKENS) -> Tokens:
    return rng.integers(0, VOCABULARY, num_tokens, dtype=np.uint32)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def build(fill: Callable[[RadixIndex, np.random.Generator], list[Tokens]]) -> Built:
    index = RadixIndex(CHUNK_TOKENS)
    rng = np.random.default_rng(1)
    before = resident_bytes()
    prompts = fill(index, rng)
    growth = resident_bytes() - before - sum(prompt.nbytes for prompt in prompts)
    stats = index.stats()
    progress(f"  {stats.chunks} chunks, {stats.nodes} nodes, {stats.tokens} tokens")
    return Built(index, prompts, (growth - 4 * stats.tokens) / stats.chunks)


def fill_long(index: RadixIndex, rng: np.random.Generator) -> list[Tokens]:
    prompts = []
    number = 0
    while index.stats().chunks < NUM_CHUNKS:
        prompt = random_prompt(rng)
        number += 1
        index.insert(prompt, time=number)
        if number % 20 == 0:
            prompts.append(prompt)
    return prompts


def fill_conversations(index: RadixIndex, rng: np.random.Generator) -> list[Tokens]:
    prompts = []
    for number in range(250):
        prompt = random_prompt(rng)
        for end in range(4096, PROMPT_TOKENS, 300):
            again = np.concatenate([prompt[:end], random_prompt(rng, 300)])
            index.insert(again, time=number)
            index.insert(prompt[: end + 300], time=number)
        if number % 10 == 0:
            prompts.append(prompt)
            progress(f"  {number} of 250 conversations")
    return prompts


def fill_shredded(index: RadixIndex, rng: np.random.Generator) -> list[Tokens]:
    prompts = []
    for number in range(24):
        prompt = random_prompt(rng)
        index.insert(prompt, time=number)
        for start in range(0, PROMPT_TOKENS, CHUNK_TOKENS):
            middle = start + CHUNK_TOKENS // 2
            index.insert(
                np.concatenate([prompt[:middle], random_prompt(rng, CHUNK_TOKENS // 2)]),
                time=number,
            )
        prompts.append(prompt)
    while index.stats().chunks < NUM_CHUNKS:
        index.insert(random_prompt(rng))
    return prompts


SHAPES = {"long": fill_long, "conversation": fill_conversations, "shredded": fill_shredded}


admissions = itertools.count(1_000_000)  # behind those of the builders
Call = Callable[[RadixIndex, AnyTokens], object]


class Bench:
    """Times calls on one tree."""

    def __init__(self, shape: str, built: Built) -> None:
        self.shape = shape
        self.index = built.index
        self.prompts = built.prompts
        self.ballast = np.ones(FLUSH_BYTES // 8, np.int64)
        self.small = RadixIndex(CHUNK_TOKENS)
        self.small_prompt = np.arange(2 * EVICT_BATCH * CHUNK_TOKENS, dtype=np.uint32)

    def cold_us(self, tokens: AnyTokens, call: Call) -> float:
        self.ballast += 1
        small_prompt = self.small_prompt.astype(tokens.dtype)
        for _ in range(3):
            self.small.insert(self.small_prompt)
            self.hot_us(self.small, small_prompt, call)
        tokens.sum()
        self.index.stats()
        return self.hot_us(self.index, tokens, call)

    def hot_us(self, index: RadixIndex, tokens: AnyTokens, call: Call) -> float:
        begin = time.perf_counter_ns()
        call(index, tokens)
        return (time.perf_counter_ns() - begin) / 1000

    def measure(
        self, name: str, prompts: Sequence[AnyTokens], call: Call, per: int = 1, **extra: object
    ) -> None:
        """Times a call that changes the tree on each prompt, cold."""
        emit(name, [self.cold_us(tokens, call) / per for tokens in prompts], "us", **extra)

    def measure_reading(
        self, name: str, prompts: Sequence[AnyTokens], call: Call, **extra: object
    ) -> None:
        """Times a call that changes nothing on each prompt, cold and at once again."""
        cold = []
        hot = []
        for tokens in prompts:
            cold.append(self.cold_us(tokens, call))
            hot.append(self.hot_us(self.index, tokens, call))
        emit(name, cold, "us", hot=float(f"{statistics.median(hot):.4g}"), **extra)

    def matches(self) -> None:
        wide = [prompt.astype(np.int64) for prompt in self.prompts]
        for prompt in (*self.prompts, *wide):
            assert self.index.match(prompt).num_memory_tokens == PROMPT_TOKENS
        bound = {"baseline": ("memcmp of the tokens, cold", self.compare_us())}
        prefix = f"index.{self.shape}"
        self.measure_reading(f"{prefix}.match_128k_us", self.prompts, match, **bound)
        self.measure_reading(f"{prefix}.match_128k_int64_us", wide, match, **bound)
        self.measure_reading(
            f"{prefix}.acquire_release_128k_us", self.prompts, acquire_and_release, **bound
        )

    def threads(self) -> None:
        """Matches a second of two threads, each with prompts of its own, over those of one."""

        def rate(num_threads: int) -> float:
            barrier = threading.Barrier(num_threads)
            seconds = [0.0] * num_threads

            def run(number: int) -> None:
                prompts = self.prompts[number::num_threads]
                barrier.wait()
                begin = time.perf_counter()
                for prompt in itertools.islice(itertools.cycle(prompts), THREAD_MATCHES):
                    self.index.match(prompt)
                seconds[number] = time.perf_counter() - begin

            threads = [threading.Thread(target=run, args=(n,)) for n in range(num_threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return num_threads * THREAD_MATCHES / max(seconds)

        rates = interleave({"one": lambda: rate(1), "two": lambda: rate(2)})
        scaling = [two / one for one, two in zip(rates["one"], rates["two"], strict=True)]
        emit("index.threads_match_scaling", scaling, "x", best=round(max(scaling), 3))

    def compare_us(self) -> list[float]:
        """What any exact match has to do at least: compare the tokens with a cold copy."""
        memcmp = ctypes.CDLL(None).memcmp
        times = []
        for prompt in self.prompts:
            copy = prompt.copy()
            a, b = ctypes.c_void_p(prompt.ctypes.data), ctypes.c_void_p(copy.ctypes.data)
            size = ctypes.c_size_t(prompt.nbytes)

            def compare(index: RadixIndex, _: AnyTokens, a=a, b=b, size=size) -> object:
                return memcmp(a, b, size if index is self.index else 0)

            times.append(self.cold_us(prompt, compare))
        return times

    def compare_lmcache(self) -> None:
        """LMCache's lookup of the same prompts in an index of as many tokens."""
        progress("  LMCache: building")
        rng = np.random.default_rng(3)
        num_others = NUM_CHUNKS * CHUNK_TOKENS // PROMPT_TOKENS - len(self.prompts)
        peer = LMCacheLookup(self.prompts, (random_prompt(rng) for _ in range(num_others)))
        for name, lookup in {"lookup": peer.lookup, "lookup_and_pin": peer.lookup_and_pin}.items():
            times = []
            for prompt in self.prompts:
                tokens = prompt.tolist()
                self.ballast += 1
                begin = time.perf_counter_ns()
                found = lookup(tokens)
                times.append((time.perf_counter_ns() - begin) / 1000)
                assert found == PROMPT_TOKENS
            emit(f"index.long.lmcache_{name}_128k_us", times, "us", chunk_tokens=256)

    def changes(self) -> None:
        """What only the long shape is asked for. Changes the tree."""
        index, prompts = self.index, self.prompts
        rng = np.random.default_rng(2)
        fresh = [random_prompt(rng) for _ in prompts]
        self.measure_reading("index.match_miss_us", fresh, match)
        self.measure("index.insert_128k_us", fresh, insert)
        assert all(index.match(prompt).num_tokens == PROMPT_TOKENS for prompt in fresh)

        middle = PROMPT_TOKENS // 2 + CHUNK_TOKENS // 2
        parting = [np.concatenate([prompt[:middle], fresh[0][:96]]) for prompt in prompts]
        self.splits(parting)
        for prompt, other in zip(prompts, parting, strict=True):
            assert index.match(prompt).num_tokens == PROMPT_TOKENS
            assert index.match(other).num_tokens == len(other)

        num_chunks = index.stats().chunks
        self.measure("index.evict_us_per_chunk", prompts, evict_batch, per=EVICT_BATCH)
        assert index.stats().chunks == num_chunks - EVICT_BATCH * len(prompts)

    def splits(self, parting: list[Tokens]) -> None:
        """An insert that parts from a long node in its middle, after the match that precedes it."""
        times = []
        for tokens in parting:
            self.cold_us(tokens, match)
            other = np.append(self.small_prompt[:1000], np.uint32(len(times)))
            self.hot_us(self.small, other, insert)
            times.append(self.hot_us(self.index, tokens, insert))
        emit("index.split_128k_us", times, "us")


def match(index: RadixIndex, tokens: AnyTokens) -> object:
    return index.match(tokens)


def acquire_and_release(index: RadixIndex, tokens: AnyTokens) -> object:
    return index.acquire(tokens).close()


def insert(index: RadixIndex, tokens: AnyTokens) -> object:
    return index.insert(tokens, time=next(admissions))


def evict_batch(index: RadixIndex, _: AnyTokens) -> object:
    return index.evict_units("memory", EVICT_BATCH)


def run(shape: str) -> None:
    progress(f"{shape}: building")
    built = build(SHAPES[shape])
    emit(f"index.{shape}.bytes_per_chunk", [built.bytes_per_chunk], "bytes")
    bench = Bench(shape, built)
    progress(f"{shape}: measuring")
    bench.matches()
    if shape == "long":
        bench.threads()
        if lmcache_lookup.is_importable():
            bench.compare_lmcache()
        bench.changes()
    built.index.check_invariants()


def main() -> None:
    if not lmcache_lookup.is_importable():
        progress("LMCache is not importable here: its lookup is not measured beside ours")
    context = multiprocessing.get_context("spawn")
    targets = dict.fromkeys(SHAPES, run)
    targets |= dict.fromkeys(index_runs.KINDS, index_runs.run)
    targets |= dict.fromkeys(index_saving.KINDS, index_saving.run)
    for name in sys.argv[1:] or targets:
        target = targets[name]
        process = context.Process(target=target, args=(name,))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
