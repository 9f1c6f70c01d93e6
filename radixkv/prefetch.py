"""Bringing what disk and remote servers have into memory, while the request for it waits.

begin ──▶ Fetch … (disk → memory)                        ┐ in prefix order, within a budget;
      └─▶ Lookup (remote?) ──▶ Get … (remote → memory)   ┘ done when all is there, or late
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radixkv.commands import Completion, CompletionStatus, Fetch, Get, Lookup, Tokens
from radixkv.config import CacheConfig
from radixkv.counters import PlannerCounters
from radixkv.index import PrefixHandle, RadixIndex
from radixkv.ledger import Ledger
from radixkv.pause import Pause
from radixkv.remote_reads import RemotePrefix, RemoteReads
from radixkv.room import bytes_of, evict

# One command: long enough for the device, short enough to admit part of a prefix.
_FETCH_BYTES = 16 << 20
_TRIES_DEAR = 16
_LOOKUP_US = 2_000  # about what asking a remote server costs the request that waits for it


@dataclass(slots=True)
class Prefetch:
    """Chunks on their way from disk and remote servers to memory for a request that waits.

    Attributes:
        handle: Pins what was found here, on any tier; closed when the prefetch ends.
        tokens_before: Tokens of it that were in memory already.
        deadline_us: Planner time after which the request waits no longer. Known from the first tick
            on: the one before may have been long ago, if the engine had nothing to do.
        uses_disk: Whether what the disk has is brought.
        remote: What remote servers have; None where they were not asked.
        done: It ended: all is there, something failed, or time ran out.
    """

    handle: PrefixHandle
    tokens_before: int
    deadline_us: int | None
    uses_disk: bool
    remote: RemotePrefix | None = None
    done: bool = False

    def may_reach_beyond(self, num_tokens: int) -> bool:
        """Whether it may still bring more than the first so many tokens."""
        if self.done:
            return False
        remote = self.remote
        if remote is not None and (remote.num_lookups or remote.end > num_tokens):
            return True
        return self.uses_disk and self.handle.num_tokens > num_tokens


class Prefetcher:
    """All prefetches of one planner.

    Args:
        config: Its budget and deadline.
        index: Knows what is kept here.
        ledger: Where commands are issued.
        counters: Of the planner.
        disk_pause: When the disk may be used; None without a disk tier.
        remotes: Asks remote servers.
        token_bytes: Of one token's KV.
    """

    def __init__(
        self,
        config: CacheConfig,
        index: RadixIndex,
        ledger: Ledger,
        counters: PlannerCounters,
        disk_pause: Pause | None,
        remotes: RemoteReads,
        token_bytes: int,
    ) -> None:
        self._budget_bytes = config.prefetch_budget_bytes
        self._deadline_us = round(config.prefetch_deadline_s * 1e6)
        self._index = index
        self._ledger = ledger
        self._counters = counters
        self._disk_pause = disk_pause
        self._remotes = remotes
        self._token_bytes = token_bytes
        self._waiting: list[Prefetch] = []
        self._inflight_bytes = 0

    def begin(
        self, tokens: Tokens, namespace: int, limit: int | None, time: int
    ) -> Prefetch | None:
        """Begin; None if there is nothing to bring and nobody to ask. `time` as for a store."""
        match = self._index.match(tokens, namespace, limit=limit, release_gil=False)
        num_on_disk = match.num_tokens - match.num_memory_tokens
        may_ask = self._may_ask((len(tokens) if limit is None else limit) - match.num_tokens)
        uses_disk = (
            num_on_disk > 0
            and self._disk_serves
            and self._is_worth_while(num_on_disk, self._ledger.rates.fetch_bytes_per_s)
        )
        if not self._budget_bytes or not (uses_disk or may_ask):
            return None
        handle = self._index.acquire(tokens, namespace, limit=limit, release_gil=False)
        deadline_us = None if self._deadline_us else self._ledger.now_us
        prefetch = Prefetch(handle, handle.num_memory_tokens, deadline_us, uses_disk)
        if may_ask:
            num_kept = handle.num_tokens if uses_disk else handle.num_memory_tokens
            wanted = np.array(tokens[:limit], np.uint32)
            prefetch.remote = self._remotes.ask(wanted, namespace, num_kept)
        if not uses_disk and prefetch.remote is None:
            handle.close()
            return None
        self._waiting.append(prefetch)
        self._go_on(prefetch, time)
        return prefetch

    def end(self, prefetch: Prefetch) -> int:
        """Stop waiting and unpin; gives the tokens that it brought."""
        prefetch.done = True
        if prefetch in self._waiting:
            self._waiting.remove(prefetch)
        if prefetch.handle.is_closed:
            return 0
        brought = prefetch.handle.num_memory_tokens - prefetch.tokens_before
        prefetch.handle.close()
        return max(brought, 0)

    def end_all(self) -> None:
        """Nobody waits any more."""
        for prefetch in list(self._waiting):
            self.end(prefetch)

    def go_on(self, time: int) -> None:
        """A tick has been heard: plan what follows."""
        for prefetch in list(self._waiting):
            if prefetch.deadline_us is None:
                prefetch.deadline_us = self._ledger.now_us + self._deadline_us
            self._go_on(prefetch, time)

    def ended(self, command: Fetch | Get | Lookup, completion: Completion) -> None:
        """A command ended."""
        counters, num_ok = self._counters, completion.num_ok
        if isinstance(command, Lookup):
            self._remotes.answered(command, completion)
            counters.lookups += 1
            counters.lookups_failed += completion.status is not CompletionStatus.OK
            return
        self._inflight_bytes -= bytes_of(self._index, command.chunks)
        good = int(command.chunks["count"][:num_ok].sum())
        failed = int(command.chunks["count"][num_ok:].sum())
        is_corrupt = completion.status is CompletionStatus.CORRUPT
        if isinstance(command, Get):
            self._remotes.ended(command, completion)
            counters.got += good
            counters.gets_failed += failed
            counters.gets_corrupt += failed if is_corrupt else 0
        else:
            assert self._disk_pause is not None
            self._index.complete_fetch(command.chunks, num_ok, corrupt=is_corrupt)
            self._disk_pause.note(completion.status, self._ledger.now_us)
            counters.fetched += good
            counters.fetches_failed += failed
            counters.fetches_corrupt += failed if is_corrupt else 0

    @property
    def _disk_serves(self) -> bool:
        return self._disk_pause is not None and self._disk_pause.is_over(self._ledger.now_us)

    @property
    def _has_budget(self) -> bool:
        return self._inflight_bytes < self._budget_bytes

    def _may_ask(self, num_absent: int) -> bool:
        """Whether so many tokens may take longer to compute than it takes to ask for them."""
        compute_us = num_absent * 1e6 / max(1, self._ledger.rates.compute_tokens_per_s)
        return bool(self._remotes.serving) and compute_us > _LOOKUP_US

    def _is_worth_while(self, num_tokens: int, bytes_per_s: int) -> bool:
        """Whether a tier, with what it has to bring already, is quicker than the engine.

        Now and then it is said to be though it is not, so that rates are measured again.
        """
        tokens_per_s = self._ledger.rates.compute_tokens_per_s
        if not bytes_per_s or not tokens_per_s:
            return True
        num_bytes = num_tokens * self._token_bytes + self._inflight_bytes
        if num_bytes / bytes_per_s <= num_tokens / tokens_per_s:
            return True
        self._counters.prefetches_dear += 1
        return self._counters.prefetches_dear % _TRIES_DEAR == 0

    def _go_on(self, prefetch: Prefetch, time: int) -> None:
        """Plan its next reads, or end it."""
        if prefetch.uses_disk:
            self._fetch(prefetch.handle)
        if prefetch.remote is not None:
            self._get(prefetch, prefetch.remote, time)
        if not prefetch.may_reach_beyond(prefetch.handle.num_memory_tokens):
            prefetch.done = True
        elif prefetch.deadline_us is not None and self._ledger.now_us >= prefetch.deadline_us:
            self._counters.prefetches_late += 1
            prefetch.done = True
        elif not self._ledger.has_pending(Fetch, Get, Lookup):
            prefetch.done = True  # nothing moves any more: the rest is not to be had
        if prefetch.done:
            self._waiting.remove(prefetch)

    def _fetch(self, handle: PrefixHandle) -> None:
        index = self._index
        max_chunks = max(1, _FETCH_BYTES // (16 * index.unit_bytes))
        while self._disk_serves and self._has_budget:
            chunks, missing_units = index.reserve_fetch(handle, max_chunks=max_chunks)
            if len(chunks):
                self._ledger.issue(Fetch(self._ledger.next_id(), chunks))
                self._inflight_bytes += bytes_of(index, chunks)
            elif not missing_units or not evict(index, "memory", missing_units):
                return

    def _get(self, prefetch: Prefetch, remote: RemotePrefix, time: int) -> None:
        if remote.num_absent and not remote.is_weighed:
            remote.is_weighed = True
            rate = self._ledger.rates.get_bytes_per_s
            if not self._is_worth_while(remote.num_absent, rate):
                prefetch.remote = None  # whatever servers may answer yet
                return
        while self._has_budget:
            get = self._remotes.get_next(remote, time=time)
            if get is None:
                break
            self._inflight_bytes += bytes_of(self._index, get.chunks)
        if prefetch.handle.num_tokens < remote.end:  # pin what has arrived
            arrived = self._index.acquire(
                remote.tokens, remote.namespace, limit=remote.end, release_gil=False
            )
            prefetch.handle.close()
            prefetch.handle = arrived
