"""The prefix tree of a whole trace: what only hindsight knows.

    request 0   ──── a ────┬── b ──            a  is used by 0, 1 and 2
    request 1              ├── c ──┬── d ──    c  by 1 and 2
    request 2              │       └── e ──

A segment is a run of tokens that exactly the same requests use, so it can be reasoned about as a
whole: its tokens are always asked for together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint32]


@dataclass(slots=True, eq=False)
class Segment:
    """One run.

    Attributes:
        ids: What it consists of; the first tells it from its siblings.
        num_tokens: Tokens that the ids stand for.
        uses: Numbers of the requests that run through it, ascending.
        depth: Segments above it.
        children: By their first id.
    """

    ids: Ids
    num_tokens: int
    uses: list[int]
    depth: int = 0
    children: dict[int, Segment] = field(default_factory=dict)

    def split(self, count: int, block_tokens: int) -> Segment:
        """Parts it behind `count` ids; returns the part above, whose only child it becomes."""
        above_tokens = count * block_tokens
        above = Segment(self.ids[:count], above_tokens, list(self.uses))
        self.ids = self.ids[count:]
        self.num_tokens -= above_tokens
        above.children[int(self.ids[0])] = self
        return above


class Segments:
    """The tree, and each request's path through it.

    Args:
        prompts: Ids and number of tokens of each request, in order.
        block_tokens: Tokens of an id, but for a prompt's last.

    Attributes:
        paths: Segments of each request, from the root.
        num_tokens: Distinct tokens.
    """

    def __init__(self, prompts: Iterable[tuple[Ids, int]], block_tokens: int) -> None:
        self._root = Segment(np.empty(0, np.uint32), 0, [])
        self._block_tokens = block_tokens
        self.paths: list[list[Segment]] = []
        for number, (ids, num_tokens) in enumerate(prompts):
            self._add(number, ids, num_tokens)
            self.paths.append([])
        self.num_tokens = 0
        open_segments = list(self._root.children.values())
        while open_segments:
            segment = open_segments.pop()
            self.num_tokens += segment.num_tokens
            for number in segment.uses:
                self.paths[number].append(segment)
            for child in segment.children.values():
                child.depth = segment.depth + 1
                open_segments.append(child)

    def _add(self, number: int, ids: Ids, num_tokens: int) -> None:
        here, at = self._root, 0
        while at < len(ids):
            key = int(ids[at])
            child = here.children.get(key)
            if child is None:
                rest = num_tokens - at * self._block_tokens
                here.children[key] = Segment(ids[at:].copy(), rest, [number])
                return
            equal = _count_equal(child.ids, ids[at:])
            if equal < len(child.ids):
                child = child.split(equal, self._block_tokens)
                here.children[key] = child
            child.uses.append(number)
            here, at = child, at + equal


def _count_equal(a: Ids, b: Ids) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length
