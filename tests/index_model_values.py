"""What the model of the index is made of: chunks, matches and policies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from index_marks_model import Path

MEMORY, DISK = TIERS = (0, 1)
ABSENT, WRITING, READY = range(3)


@dataclass(eq=False)
class ModelChunk:
    """`path` has the tokens of the whole prompt up to the chunk's end."""

    space: int
    path: Path
    start: int
    id: int
    generation: int
    state: list[int] = field(default_factory=lambda: [ABSENT, ABSENT])
    uses: list[int] = field(default_factory=lambda: [0, 0])
    offset: list[int | None] = field(default_factory=lambda: [None, None])
    time: int = 0
    num_uses: int = 0
    pins: int = 0
    dropped: bool = False
    no_spill: bool = False
    spill_due: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.path) - self.start

    def kept(self, tier: int) -> bool:
        return self.state[tier] != ABSENT

    def visible(self, tier: int) -> bool:
        return self.state[tier] == READY and not self.dropped


@dataclass(frozen=True)
class ModelPolicy:
    """An order over leaves; `weight` takes a leaf's position and the admissions that found it."""

    name: str
    weight: Callable[[int, int], int]
    lightest_first: bool = False
    is_renewed_by_uses: bool = True


def steps(value: int) -> int:
    return math.floor(4 * math.log2(value) + 1e-9)


LRU = ModelPolicy("lru", lambda position, num_uses: 0)
MODEL_POLICIES = [
    LRU,
    ModelPolicy("fifo", lambda position, num_uses: 0, is_renewed_by_uses=False),
    ModelPolicy("lfu", lambda position, num_uses: min(num_uses, 63), lightest_first=True),
    ModelPolicy("slru", lambda position, num_uses: 8 if num_uses else 0),
    ModelPolicy("cost", lambda position, num_uses: steps(8 + position // 4096) - 12),
]


@dataclass(frozen=True)
class ModelMatch:
    num_tokens: int
    last: ModelChunk | None


def common(a: Path, b: Path) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
