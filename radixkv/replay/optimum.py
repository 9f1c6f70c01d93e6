"""What no cache can beat: infinite memory, and for a given capacity the best choice in hindsight.

Of tokens that all cost the same, the best to keep are those that are used again soonest (Belady's
rule, here with the right to keep nothing of a request). A run's next use is never before that of
the run above it, so the rule never keeps a suffix without its prefix. It works on single tokens,
evicts at no cost and never has to keep what it will not use: an upper bound for every policy.
"""

from __future__ import annotations

import heapq

from radixkv.replay.segments import Segment
from radixkv.replay.trace import Trace


def ideal(trace: Trace) -> int:
    """Tokens that a cache without end would have found."""
    return trace.num_tokens - trace.segments.num_tokens


def optimum(trace: Trace, capacity_tokens: int) -> int:
    """Tokens that a cache of this capacity could have found at most."""
    kept: dict[Segment, int] = {}
    num_used: dict[Segment, int] = {}
    # By next use, the latest first; of two, the deeper. Entries of earlier uses are skipped.
    queue: list[tuple[int, int, int, Segment]] = []
    num_kept = num_hits = 0
    for number, path in enumerate(trace.segments.paths):
        for segment in path:
            here = kept.pop(segment, 0)
            num_hits += here
            num_kept -= here
            used = num_used.get(segment, 0) + 1
            num_used[segment] = used
            if used == len(segment.uses):
                continue
            kept[segment] = segment.num_tokens
            num_kept += segment.num_tokens
            entry = (-segment.uses[used], -segment.depth, id(segment), segment)
            heapq.heappush(queue, entry)
        while num_kept > capacity_tokens:
            next_use, _, _, segment = queue[0]
            if segment not in kept or -next_use != segment.uses[num_used[segment]]:
                heapq.heappop(queue)
                continue
            gone = min(kept[segment], num_kept - capacity_tokens)
            num_kept -= gone
            kept[segment] -= gone
            if not kept[segment]:
                del kept[segment]
                heapq.heappop(queue)
        assert num_kept >= 0, f"after request {number}"
    return num_hits
