"""Takes the cost rule out of a benchmark's way.

A GPU computes more KV a second than a disk gives, and radixkv leaves the disk alone where it knows
that. A planner that knows of no rates does not, so what a disk hit is worth can be measured.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

_VARIABLE = "RADIXKV_BENCH_FETCHES"


def fetch_always() -> None:
    """Makes the planners of this process bring what would be computed sooner, too; and those of
    processes that it starts, if they import this module.
    """
    from radixkv import Planner, Rates

    os.environ[_VARIABLE] = "1"
    apply = Planner.apply

    def without_rates(planner: Planner, record: Any) -> Any:
        return apply(planner, dataclasses.replace(record, rates=Rates()))

    Planner.apply = without_rates  # type: ignore[method-assign]


if os.environ.get(_VARIABLE):
    fetch_always()
