"""The ranks of SGLang's tensor-parallel group, as the planner's replicas agree over them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist

from radixkv import RankGroup, TickRow

Value = TypeVar("Value")


class TorchRankGroup(RankGroup):
    """A `torch.distributed` group on the CPU. Every rank makes the same calls in the same order."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def minimum(self, row: TickRow) -> TickRow:
        agreed = torch.from_numpy(row.copy())
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN, group=self._group)
        row_of_all: TickRow = agreed.numpy()
        return row_of_all

    def gather(self, value: Value) -> list[Value]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values


def rank_group(group: Any) -> RankGroup:
    """The group to agree over; one of a single rank where SGLang has none."""
    if group is None or not dist.is_initialized() or dist.get_world_size(group) == 1:
        return RankGroup()
    return TorchRankGroup(group)
