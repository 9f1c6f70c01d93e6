"""Finding and bringing what remote servers have of a prompt that waits.

    a request queues ─┬▶ Lookup, one a server ──▶ how far each has it ──▶ Gets, in prefix order
                      └▶ Gets of what a server is remembered to have had

What a server has may be gone a moment later: a chunk counts when it has arrived and was checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import ChunkArray, Completion, CompletionStatus, Get, Lookup
from radixkv.index import RadixIndex
from radixkv.layout import KVLayout
from radixkv.ledger import Ledger
from radixkv.pause import Pause
from radixkv.remote_hints import RemoteHints
from radixkv.room import reserve
from radixkv.units import MIB

_GET_BYTES = 16 * MIB
_LEAST_SHARE = 4  # nobody is asked about less than a part of a chunk, one in so many
_FIRST_PAUSE_US = 250_000
_LAST_PAUSE_US = 5_000_000


@dataclass(slots=True, eq=False)
class RemotePrefix:
    """How far remote servers have a prompt.

    Attributes:
        tokens: Those of the prompt that are of use. Shape: (n,), uint32.
        namespace: Which tree.
        next_token: Everything before it is here, on its way from the disk, or asked for.
        num_kept: Tokens that are kept here: what does not reach beyond them is of no use.
        end: How far the best server has it, or had it; `next_token` or less where none has more.
        remote: That server's place in the configuration.
        num_lookups: Servers that have not answered.
        is_weighed: It was decided whether bringing is worth while.
    """

    tokens: NDArray[np.uint32]
    namespace: int
    next_token: int
    num_kept: int
    end: int
    remote: int = 0
    num_lookups: int = 0
    is_weighed: bool = field(default=False)

    @property
    def num_absent(self) -> int:
        """Tokens that a server has, and that were not asked for."""
        return max(0, self.end - self.next_token)


class RemoteReads:
    """What is asked of, and on its way from, remote servers.

    Args:
        num_remotes: How many there are.
        index: Knows what is kept here.
        ledger: Where commands are issued.
        layout: The KV of one token.
    """

    def __init__(
        self, num_remotes: int, index: RadixIndex, ledger: Ledger, layout: KVLayout
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._step = index.chunk_tokens
        self._block_tokens = layout.block_tokens
        num_chunks = max(1, _GET_BYTES // (layout.token_bytes * self._step))
        self._get_tokens = num_chunks * self._step
        self._hints = [RemoteHints(index.chunk_tokens) for _ in range(num_remotes)]
        self._pauses = [Pause(_FIRST_PAUSE_US, _LAST_PAUSE_US) for _ in range(num_remotes)]
        self._prefixes: dict[int, RemotePrefix] = {}  # by command under way
        self._is_stopped = False

    @property
    def serving(self) -> list[int]:
        """The servers that may be asked now."""
        if self._is_stopped:
            return []
        now_us = self._ledger.now_us
        return [number for number, pause in enumerate(self._pauses) if pause.is_over(now_us)]

    def ask(self, tokens: NDArray[np.uint32], namespace: int, num_kept: int) -> RemotePrefix | None:
        """Ask every server that serves how far it has a prompt of which a part is kept here.

        As far as one is remembered to have had it, its chunks may be asked for at once.

        Returns:
            What learns of the answers; None where nobody is asked.
        """
        first = num_kept // self._step * self._step
        serving = self.serving
        if not serving or len(tokens) - num_kept < self._step // _LEAST_SHARE:
            return None
        prefix = RemotePrefix(tokens, namespace, first, num_kept, first)
        for number in serving:
            known = self._hints[number].known(tokens, namespace)
            if known > max(prefix.end, num_kept):
                prefix.end, prefix.remote = known, number
        if len(tokens) - prefix.end < self._step // _LEAST_SHARE:
            return prefix  # there is nothing left to ask for
        with self._index.acquire(tokens, namespace, limit=first, release_gil=False) as kept:
            parent_key = self._index.prefix_key(kept, namespace)
        prefix.num_lookups = len(serving)
        for number in serving:
            command_id = self._ledger.next_id()
            self._prefixes[command_id] = prefix
            self._ledger.issue(Lookup(command_id, number, tokens[first:], parent_key))
        return prefix

    def answered(self, lookup: Lookup, completion: Completion) -> None:
        """A server said how far it has a prompt, or did not answer."""
        self._pauses[lookup.remote].note(completion.status, self._ledger.now_us)
        prefix = self._prefixes.pop(lookup.command_id)
        prefix.num_lookups -= 1
        end = len(prefix.tokens) - len(lookup.tokens) + completion.num_ok
        end -= end % self._block_tokens
        self._learn(lookup.remote, completion, prefix, end)
        if lookup.remote == prefix.remote and end < prefix.end:  # it is not what it was
            prefix.end = max(end, prefix.next_token)
        if end > max(prefix.end, prefix.num_kept):
            prefix.end, prefix.remote = end, lookup.remote

    def get_next(self, prefix: RemotePrefix, *, time: int) -> Get | None:
        """Begin to bring the next chunks of a prompt; None where none are left to ask for."""
        while prefix.num_absent:
            limit = min(prefix.end, prefix.next_token + self._get_tokens)
            chunks, missing_units = reserve(
                self._index, prefix.tokens, prefix.namespace, time=time, limit=limit
            )
            prefix.next_token = limit
            if missing_units:
                prefix.end = limit  # memory is full of what is pinned
            if len(chunks):
                return self._get(prefix, chunks)
        return None

    def _get(self, prefix: RemotePrefix, chunks: ChunkArray) -> Get:
        first = int(chunks["span"][0]) * self._step
        tokens = prefix.tokens[first : first + int(chunks["num_tokens"].sum())]
        parent_key = self._index.parent_key(chunks)
        get = Get(self._ledger.next_id(), prefix.remote, chunks, tokens, parent_key)
        self._prefixes[get.command_id] = prefix
        self._ledger.issue(get)
        return get

    def ended(self, get: Get, completion: Completion) -> None:
        """Chunks have arrived, or not."""
        self._index.complete_store(get.chunks, completion.num_ok)
        self._pauses[get.remote].note(completion.status, self._ledger.now_us)
        prefix = self._prefixes.pop(get.command_id)
        if completion.num_ok < len(get.chunks):
            first_lost = int(get.chunks["span"][completion.num_ok]) * self._step
            prefix.end = min(prefix.end, first_lost)
            self._learn(get.remote, completion, prefix, first_lost)

    def _learn(self, remote: int, completion: Completion, prefix: RemotePrefix, end: int) -> None:
        """A server has shown that it has a prompt so far and no further, or that it fails."""
        if completion.status is CompletionStatus.FAILED:
            self._hints[remote].forget()
        else:
            self._hints[remote].note(prefix.tokens, prefix.namespace, end)

    def stop(self) -> None:
        """From now on nobody is asked."""
        self._is_stopped = True
