"""The largest subtrees of an index, by a sample of its chunks.

To look at each chunk would hold up the engine where there are millions. So a few thousand are
looked at, in slices of well below a millisecond, and shares are estimates: one of a tenth is off by
less than 0.015, nineteen times of twenty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixkv.index import RadixIndex

NUM_SAMPLES = 2048
_SLICE = 64
_NO_NODE = 0xFFFFFFFF
_FIRST_NODE = 4  # column of a sample's row: namespace, tokens, uses, in memory, nodes …


@dataclass(frozen=True, slots=True)
class Subtree:
    """What begins with the same tokens.

    Attributes:
        level: Listed subtrees that it lies in.
        namespace: Number of its tree.
        end: Tokens that all of it shares.
        head: The first of those that it does not share with the one it lies in.
        share: Of the kept chunks, those that lie in it, 0 to 1.
        memory_share: Of those, the ones that memory has.
        uses: Times that one of its chunks was found, on average.
    """

    level: int
    namespace: int
    end: int
    head: tuple[int, ...]
    share: float
    memory_share: float
    uses: float


def largest_subtrees(
    index: RadixIndex, *, seed: int, least_share: float = 0.02, most: int = 20
) -> list[Subtree]:
    """The subtrees that have at least a share of the kept chunks, each behind what it lies in.

    Args:
        index: May change meanwhile.
        seed: Draws the sample.
        least_share: Of the kept chunks.
        most: Subtrees to list.
    """
    rows = _sample(index, np.random.default_rng(seed))
    found: list[Subtree] = []
    if len(rows):
        for namespace in np.unique(rows[:, 0]):
            own = rows[rows[:, 0] == namespace]
            _list_below(index, own, 0, 0, max(2.0, least_share * len(rows)), len(rows), found)
    return found[:most]


def _sample(index: RadixIndex, rng: np.random.Generator) -> NDArray[np.uint32]:
    slices = []
    for _ in range(NUM_SAMPLES // _SLICE):
        first, step = (int(number) for number in rng.integers(1, 1 << 31, 2))
        slices.append(index.sample_chunks(first, step | 1, _SLICE))
    return np.concatenate(slices)


def _list_below(
    index: RadixIndex,
    rows: NDArray[np.uint32],
    depth: int,
    level: int,
    least: float,
    num_rows: int,
    found: list[Subtree],
) -> None:
    """Lists the nodes at a depth; one that is nearly alone in the one above stands for both."""
    if _FIRST_NODE + depth >= rows.shape[1]:
        return
    column = rows[:, _FIRST_NODE + depth]
    nodes, counts = np.unique(column[column != _NO_NODE], return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        if counts[place] < least:
            return
        node, own = int(nodes[place]), rows[column == nodes[place]]
        _, end, head = index.node_head(node)
        before = len(found)
        _list_below(index, own, depth + 1, level + 1, least, num_rows, found)
        below = found[before:]
        if len(below) == 1 and below[0].share * num_rows > 0.95 * len(own):
            continue
        subtree = Subtree(
            level,
            int(own[0, 0]),
            end,
            tuple(head.tolist()),
            len(own) / num_rows,
            float(own[:, 3].mean()),
            float(own[:, 2].mean()),
        )
        found.insert(before, subtree)
