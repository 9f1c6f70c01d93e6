"""Send each request to the replica that has most of its prompt: python examples/router.py TRACE

Each replica has an index of its own and tells its events; the router follows them and never asks a
replica anything. Prints how much of the prompts the replicas find, beside dealing requests out in
turn. TRACE is a file of JSON lines, as `radixkv replay` reads it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from radixkv import RadixIndex
from radixkv.commands import Tokens
from radixkv.follower import Follower
from radixkv.replay import Trace, read_trace

CHUNK_TOKENS = 64
NUM_REPLICAS = 2
UNIT_BYTES = 4096  # of the index: one for each token of a chunk, so that tails take what they need


class Replica:
    """Stands for an engine: finds what its index keeps of a prompt, and keeps the rest."""

    def __init__(self, capacity_tokens: int) -> None:
        self.index = RadixIndex(
            CHUNK_TOKENS,
            token_bytes=UNIT_BYTES,
            unit_bytes=UNIT_BYTES,
            memory_bytes=capacity_tokens * UNIT_BYTES,
        )
        self.num_found = self.num_tokens = self._requests = 0

    def serve(self, tokens: Tokens) -> None:
        self._requests += 1
        with self.index.acquire(tokens, time=self._requests) as handle:
            self.num_found += handle.num_memory_tokens
        self.index.insert(tokens, time=self._requests)
        self.num_tokens += len(tokens)


class Router:
    """Knows what each replica keeps, from its events."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.followers = [Follower(CHUNK_TOKENS) for _ in replicas]
        for replica in replicas:
            replica.index.record_events(1 << 24)

    def choose(self, tokens: Tokens) -> Replica:
        """The longest match; of replicas that match as much, the one that has served less."""
        for replica, follower in zip(self.replicas, self.followers, strict=True):
            follower.follow(replica.index)
        matches = [follower.match(tokens).num_memory_tokens for follower in self.followers]
        return max(
            zip(matches, self.replicas, strict=True), key=lambda one: (one[0], -one[1].num_tokens)
        )[1]


def hit_rate(trace: Trace, share: float, *, routed: bool) -> float:
    """Part of the prompts' tokens that is found; all replicas have room for `share` of them."""
    capacity = round(share * trace.num_distinct_tokens / NUM_REPLICAS)
    replicas = [Replica(capacity) for _ in range(NUM_REPLICAS)]
    router = Router(replicas) if routed else None
    for number, request in enumerate(trace.requests):
        tokens = trace.tokens(request)
        replica = router.choose(tokens) if router else replicas[number % NUM_REPLICAS]
        replica.serve(tokens)
    return sum(replica.num_found for replica in replicas) / trace.num_tokens


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    trace = read_trace(Path(sys.argv[1]))
    for share in (0.1, 0.3):
        in_turn = hit_rate(trace, share, routed=False)
        routed = hit_rate(trace, share, routed=True)
        print(f"room for {share:.0%}: {in_turn:.1%} found in turn, {routed:.1%} by longest match")


if __name__ == "__main__":
    main()
