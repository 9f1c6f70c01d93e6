"""How the ranks of one engine agree; a group of one rank needs nothing to."""

from __future__ import annotations

from typing import TypeVar

from radixkv.ticks import TickRow

Value = TypeVar("Value")


class RankGroup:
    """How the ranks of one engine agree. This one is a group of a single rank; adapters bring
    theirs.

    Attributes:
        rank: This process's place in the group.
        size: Ranks in the group.
    """

    rank = 0
    size = 1

    def minimum(self, row: TickRow) -> TickRow:
        """Elementwise minimum of every rank's row. Shape and dtype are kept."""
        return row

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, in order of rank. Called at start, and to take chunks out or in."""
        return [value]
