"""What does each way of writing to a shared server write, and what do the hosts find there?

    make bench NAME=write_policies

Two hosts answer generated requests (`replay_traces.py`) in turns, through the control plane that an
engine would run; every command is done at once, and the server is a table that forgets what nobody
used for longest. What memory keeps in each host, and the server, is in per cent of a trace's
distinct tokens. A row's value is the share of the prompts' tokens that was found there; `written`
is what was written to it, over all tokens of the prompts. A replay is deterministic: `value` is
`best`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import replay_traces
from harness import emit, progress
from numpy.typing import NDArray

from radixkv.commands import Command, Completion, CompletionStatus, Get, Lookup, Put
from radixkv.config import CacheConfig
from radixkv.layout import KVLayout
from radixkv.planner import Planner
from radixkv.replay import Trace
from radixkv.ticks import TickRecord

POLICIES = ("through", "seen:2", "seen:3", "evict")
CHUNK_TOKENS = 64
PERCENTS = ((3, 10), (3, 100), (30, 100))  # of memory and server
SEED = 2
LAYOUT = KVLayout(num_layers=1, num_kv=1, row_bytes=1024, dtype="bytes")

Tokens = NDArray[np.uint32]


class Server:
    """Keeps chunks by their keys, so many tokens of them."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity_tokens = capacity_tokens
        self._chunks: OrderedDict[bytes, int] = OrderedDict()
        self._num_tokens = 0
        self.written_tokens = 0

    def do(self, command: Put | Get | Lookup) -> Completion:
        """Carry a command out."""
        if isinstance(command, Put):
            lengths = command.chunks["num_tokens"].tolist()
            self._put(list(keys_of(command.parent_key, command.tokens, lengths)), lengths)
            return Completion(command.command_id, len(lengths), CompletionStatus.OK)
        if isinstance(command, Get):
            lengths = command.chunks["num_tokens"].tolist()
            num_found = self._find(command.parent_key, command.tokens, lengths)
            is_whole = num_found == len(lengths)
            status = CompletionStatus.OK if is_whole else CompletionStatus.ABSENT
            return Completion(command.command_id, num_found, status)
        lengths = [CHUNK_TOKENS] * (len(command.tokens) // CHUNK_TOKENS)
        num_found = self._find(command.parent_key, command.tokens, lengths)
        return Completion(command.command_id, num_found * CHUNK_TOKENS, CompletionStatus.OK)

    def _put(self, keys: list[bytes], lengths: list[int]) -> None:
        for key, length in zip(keys, lengths, strict=True):
            if key not in self._chunks:
                self._chunks[key] = length
                self._num_tokens += length
                self.written_tokens += length
        for key in reversed(keys):  # the front of a prompt goes last
            self._chunks.move_to_end(key)
        while self._num_tokens > self._capacity_tokens:
            self._num_tokens -= self._chunks.popitem(last=False)[1]

    def _find(self, parent_key: bytes, tokens: Tokens, lengths: list[int]) -> int:
        found = []
        for key in keys_of(parent_key, tokens, lengths):
            if key not in self._chunks:
                break
            found.append(key)
        for key in reversed(found):
            self._chunks.move_to_end(key)
        return len(found)


def keys_of(parent_key: bytes, tokens: Tokens, lengths: list[int]) -> Iterator[bytes]:
    """Of chunks of these lengths, one behind the other, as radixkv has them."""
    first = 0
    for length in lengths:
        run = np.ascontiguousarray(tokens[first : first + length]).tobytes()
        parent_key = hashlib.sha256(parent_key + run).digest()[:16]
        yield parent_key
        first += length


class Host:
    """A planner whose commands are done at once."""

    def __init__(self, server: Server, policy: str, memory_tokens: int) -> None:
        config = CacheConfig.from_mapping(
            {
                "chunk_tokens": CHUNK_TOKENS,
                "remotes": [f"redis://server?write={policy}"],
                "prefetch": {"budget": "1TiB"},
            }
        )
        units = -(-LAYOUT.token_bytes * CHUNK_TOKENS // LAYOUT.unit_bytes(CHUNK_TOKENS))
        num_units = max(4, memory_tokens // CHUNK_TOKENS) * units
        self._planner = Planner(LAYOUT, config, memory_units=num_units)
        self._server = server

    @property
    def got_tokens(self) -> int:
        return self._planner.counters.got

    def serve(self, tokens: Tokens) -> None:
        planner = self._planner
        prefetch = planner.prefetch(tokens)
        self._do_all()
        if prefetch is not None:
            assert prefetch.done
            planner.end_prefetch(prefetch)
        admission = planner.new_admission()
        with planner.acquire(tokens, time=admission) as handle:
            if handle.num_memory_tokens:
                planner.load(handle, 0, np.arange(handle.num_memory_tokens))
        self._do_all()
        planner.store(tokens, np.arange, time=admission)
        self._do_all()

    def _do_all(self) -> None:
        while commands := self._planner.take_commands():
            completions = tuple(self._do(command) for command in commands)
            self._planner.apply(TickRecord(1, completions))

    def _do(self, command: Command) -> Completion:
        if isinstance(command, Put | Get | Lookup):
            return self._server.do(command)
        return Completion(command.command_id, len(command.chunks), CompletionStatus.OK)


def measure(trace: Trace, policy: str, memory_percent: int, server_percent: int) -> None:
    num_distinct = trace.num_distinct_tokens
    server = Server(num_distinct * server_percent // 100)
    hosts = [Host(server, policy, num_distinct * memory_percent // 100) for _ in range(2)]
    num_tokens = 0
    for number, request in enumerate(trace.requests):
        tokens = np.asarray(trace.tokens(request), np.uint32)
        hosts[number % 2].serve(tokens)
        num_tokens += len(tokens)
    found = sum(host.got_tokens for host in hosts) / num_tokens
    written = server.written_tokens / num_tokens
    emit(
        f"write_policies.{trace.name}.memory_{memory_percent}.server_{server_percent}",
        [found],
        "of tokens",
        policy=policy,
        written=round(written, 4),
        found_per_written=round(found / written, 3) if written else None,
    )


def main() -> None:
    for name in replay_traces.PATTERNS:
        progress(name)
        trace = replay_traces.generate(name, SEED)
        for memory_percent, server_percent in PERCENTS:
            for policy in POLICIES:
                measure(trace, policy, memory_percent, server_percent)


if __name__ == "__main__":
    main()
