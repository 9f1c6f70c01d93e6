"""An engine whose KV says by itself whether it is right, and random work that it does with a cache.

A token's rows are made from a hash of all tokens up to it, as in a real model every row follows
from its whole prefix. So rows of another token, another prompt, another layer, of a slot that was
given away or of an extent that was overwritten are told from right ones wherever they appear.

    request    prefetch ─▶ acquire ─▶ load ─▶ compute the rest ─▶ store ─▶ slots are given away
    between    ticks, faults, delays, drops, clears, restarts

Many requests are under way at once. A slot is scribbled over when it is given away: what reads it
then finds garbage.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from radixkv import (
    CacheConfig,
    CompletionStatus,
    Fetch,
    KVCache,
    Load,
    Prefetch,
    Spill,
    Store,
    Ticket,
    describe_arrays,
)

CHUNK = 16
NUM_LAYERS, NUM_KV, ROW_WORDS = 4, 2, 64  # 4 KiB a token, so that tails take less than full chunks
NUM_SLOTS = 1500
LONGEST = 130
Slots = NDArray[np.int64]


class Engine:
    """KV memory, and the rows that belong to a sequence of tokens."""

    def __init__(self, seed: int) -> None:
        numbers = np.random.default_rng(seed)
        self.arrays = [
            np.zeros((NUM_SLOTS, ROW_WORDS), np.uint64) for _ in range(NUM_LAYERS * NUM_KV)
        ]
        self.factors = numbers.integers(1, 2**63, (len(self.arrays), 1, ROW_WORDS), np.uint64) | 1
        self.layout, self.memory = describe_arrays(self.arrays, NUM_KV)
        self.free = list(range(NUM_SLOTS))

    def right_rows(self, tokens: list[int]) -> NDArray[np.uint64]:
        """Shape (num_rows, len(tokens), ROW_WORDS)."""
        hashes, value = [], 1
        for token in tokens:
            value = (value ^ (token + 1)) * 0x9E3779B97F4A7C15 % 2**64
            value ^= value >> 29
            hashes.append(value)
        return np.array(hashes, np.uint64)[None, :, None] * self.factors

    def rows(self, slots: Slots, buffers: range | None = None) -> NDArray[np.uint64]:
        return np.stack([self.arrays[i][slots] for i in buffers or range(len(self.arrays))])

    def write(self, slots: Slots, rows: NDArray[np.uint64]) -> None:
        for array, part in zip(self.arrays, rows, strict=True):
            array[slots] = part

    def give_away(self, slots: Slots) -> None:
        for array in self.arrays:
            array[slots] = np.uint64(0xEEEEEEEEEEEEEEEE)
        self.free += slots.tolist()


@dataclass(eq=False)
class Request:
    """A prompt on its way through the engine."""

    tokens: list[int]
    prefetch: Prefetch | None = None
    slots: Slots = field(default_factory=lambda: np.zeros(0, np.int64))
    loaded: slice = field(default_factory=lambda: slice(0))
    load: Ticket | None = None
    store: Ticket | None = None


class Machine:
    """Does random work, and checks every row that comes back."""

    def __init__(self, seed: int, config: CacheConfig) -> None:
        self.rng = random.Random(seed)
        self.engine = Engine(seed)
        self.config = config
        self.cache = self._open()
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.did: Counter[str] = Counter()  # so that a test sees that it was not idle
        self.books = [self._random_tokens(LONGEST) for _ in range(6)]

    def _open(self) -> KVCache:
        return KVCache(self.engine.layout, self.config, engine=self.engine.memory)

    def _random_tokens(self, length: int) -> list[int]:
        return [self.rng.randrange(50_000) for _ in range(length)]

    def step(self) -> None:
        """One thing, chosen at random."""
        kind = self.rng.random()
        if kind < 0.35:
            self.ask()
        elif kind < 0.9:
            self.tick()
        elif kind < 0.96:
            self.break_something()
        elif kind < 0.97:
            self.forget()
        else:
            self.cache.wait_for_completion(0.001)

    def ask(self) -> None:
        """A request comes; one that waits is admitted."""
        if len(self.waiting) < 4:
            request = Request(self._draw_prompt())
            request.prefetch = self.cache.prefetch(np.array(request.tokens, np.uint32))
            self.waiting.append(request)
        request = self.rng.choice(self.waiting)
        is_held = request.prefetch is not None and not request.prefetch.done
        if is_held and self.rng.random() < 0.8:
            return
        self.waiting.remove(request)
        if request.prefetch is not None:
            self.cache.end_prefetch(request.prefetch)
        if self.rng.random() < 0.95:
            self._admit(request)

    def _draw_prompt(self) -> list[int]:
        """Books are read again and again, from their beginning to anywhere, and continued."""
        book = self.rng.choice(self.books)
        tokens = book[: self.rng.randrange(1, LONGEST)]
        if self.rng.random() < 0.6:
            tokens = tokens + self._random_tokens(self.rng.randrange(0, 40))
        if self.rng.random() < 0.1:
            longer = (tokens + self._random_tokens(LONGEST))[:LONGEST]
            self.books[self.rng.randrange(len(self.books))] = longer
        return tokens

    def _admit(self, request: Request) -> None:
        """Loads what memory has beyond what the device is said to have, computes the rest."""
        tokens, free = request.tokens, self.engine.free
        if len(free) < len(tokens):
            return
        if self.rng.random() < 0.3:
            self.rng.shuffle(free)
        request.slots = np.array([free.pop() for _ in tokens], np.int64)
        limit = self.rng.choice([None, len(tokens) - 1])
        with self.cache.acquire(np.array(tokens, np.uint32), limit=limit) as handle:
            last = handle.num_memory_tokens
            first = self.rng.choice([0, self.rng.randrange(last + 1)])
            if last > first:
                request.load = self.cache.load(handle, request.slots[first:last], first)
        request.loaded = slice(first, last)
        right = self.engine.right_rows(tokens)
        for part in (slice(0, first), slice(last, None)):
            self.engine.write(request.slots[part], right[:, part])
        self.running.append(request)
        if request.load is not None and self.rng.random() < 0.3:
            self._read_layer_by_layer(request, request.load, right)

    def _read_layer_by_layer(
        self, request: Request, load: Ticket, right: NDArray[np.uint64]
    ) -> None:
        """As a forward does that begins while later layers are still on their way."""
        for layer in range(NUM_LAYERS):
            if not load.wait_layer(layer):
                return
            buffers = range(layer * NUM_KV, (layer + 1) * NUM_KV)
            rows = self.engine.rows(request.slots[request.loaded], buffers)
            assert np.array_equal(rows, right[buffers.start : buffers.stop, request.loaded])
            self.did["layers read early"] += 1

    def tick(self) -> None:
        """Hears what ended; what was loaded is compared, and stored."""
        ended = {command.command_id: done.status for command, done in self.cache.tick()}
        for request in list(self.running):
            if request.store is not None:
                if request.store.command_id in ended:
                    self._end(request)
            elif request.load is None:
                self._compare_and_store(request)
            elif request.load.command_id in ended:
                if ended[request.load.command_id] is CompletionStatus.OK:
                    self._compare_and_store(request)
                else:
                    self._end(request)

    def _compare_and_store(self, request: Request) -> None:
        right = self.engine.right_rows(request.tokens)
        assert np.array_equal(self.engine.rows(request.slots), right), request.loaded
        self.did["loaded"] += request.load is not None
        self._store(request)

    def _store(self, request: Request) -> None:
        limit = self.rng.randrange(1, len(request.tokens) + 1) if self.rng.random() < 0.3 else None
        request.store = self.cache.store(
            np.array(request.tokens, np.uint32),
            request.slots,
            limit=limit,
            tail=self.rng.random() < 0.8,
        )
        self.did["stored"] += request.store is not None
        if request.store is None:
            self._end(request)

    def _end(self, request: Request) -> None:
        self.running.remove(request)
        self.engine.give_away(request.slots)

    def break_something(self) -> None:
        """The next command of a kind fails, or its end is heard late."""
        kind = self.rng.choice([Store, Load, Spill, Fetch])
        fail = self.rng.random() < 0.3
        self.cache.executor.inject_fault(kind, fail=fail, delay_s=self.rng.choice([0, 0.001, 0.01]))

    def forget(self) -> None:
        """Memory is cleared, or what begins like a book goes from both tiers."""
        if self.rng.random() < 0.5:
            self.cache.clear()
        else:
            book = self.rng.choice(self.books)
            self.cache.drop(np.array(book[: self.rng.randrange(1, 40)], np.uint32))

    def finish(self) -> None:
        """All that is under way ends, and what is kept is read."""
        for request in self.waiting:
            if request.prefetch is not None:
                self.cache.end_prefetch(request.prefetch)
        self.waiting.clear()
        while self.running:
            self.cache.wait_for_completion(0.01)
            self.tick()
        assert self.cache.settle()
        self.cache.planner.index.check_invariants()
        assert self.cache.planner.levels()["pins"] == 0
        for book in self.books:
            self._read_back(book)

    def _read_back(self, tokens: list[int]) -> None:
        ids = np.array(tokens, np.uint32)
        self.cache.fetch(ids)
        with self.cache.acquire(ids) as handle:
            slots = np.arange(handle.num_memory_tokens, dtype=np.int64)
            if len(slots) and self.cache.load(handle, slots).wait():
                right = self.engine.right_rows(tokens[: len(slots)])
                assert np.array_equal(self.engine.rows(slots), right)
                self.did["read back"] += 1

    def restart(self) -> None:
        """The cache is closed with work under way, and opened again."""
        if self.rng.random() < 0.5:
            self.finish()
        self.close()
        self.cache = self._open()

    def close(self) -> None:
        """Afterwards the cache touches no slot."""
        self.cache.close()
        for request in list(self.running):
            self._end(request)
        self.waiting.clear()
