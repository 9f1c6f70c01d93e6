"""What a planner counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class PlannerCounters:
    """What a planner did since it began, in tokens except where the comment says calls."""

    stored: int = 0
    stores_dropped: int = 0  # calls: too much was under way
    stores_short: int = 0  # calls: memory had no room, all of it pinned or in use
    stores_failed: int = 0
    loaded: int = 0
    loads_failed: int = 0
    spilled: int = 0
    spills_failed: int = 0
    fetched: int = 0
    fetches_failed: int = 0
    fetches_corrupt: int = 0
    put: int = 0  # a remote server has them now, or had them already
    puts_dropped: int = 0  # too much waited, it did not serve, or memory had lost them
    puts_failed: int = 0
    got: int = 0
    gets_failed: int = 0  # with those that had gone, and the corrupt ones
    gets_corrupt: int = 0
    lookups: int = 0  # calls
    lookups_failed: int = 0  # calls
    prefetches_dear: int = 0  # calls: computing would be quicker
    prefetches_late: int = 0  # calls: the deadline came first
    recalls_failed: int = 0  # calls: recency and marks of before could not be read at start
