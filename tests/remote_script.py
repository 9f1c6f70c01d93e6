"""A planner and the remote servers that a test plays, with values alone."""

from __future__ import annotations

import numpy as np
from test_planner import CHUNK, CHUNK_UNITS, LAYOUT, identity_slots

from radixkv.commands import Command, Completion, CompletionStatus, Lookup, Put
from radixkv.config import CacheConfig
from radixkv.planner import Planner
from radixkv.ticks import Rates, TickRecord

OK, FAILED, FULL = CompletionStatus.OK, CompletionStatus.FAILED, CompletionStatus.FULL
ABSENT = CompletionStatus.ABSENT
CHUNK_BYTES = CHUNK * LAYOUT.token_bytes


class Script:
    """A planner and the remote servers that a test plays."""

    def __init__(
        self,
        *,
        num_remotes: int = 1,
        memory_chunks: int = 64,
        disk_chunks: int = 0,
        write="through",
        **settings,
    ) -> None:
        urls = [f"redis://host{number}?write={write}" for number in range(num_remotes)]
        config = CacheConfig.from_mapping({"chunk_tokens": CHUNK, "remotes": urls} | settings)
        self.planner = Planner(
            LAYOUT,
            config,
            memory_units=memory_chunks * CHUNK_UNITS,
            disk_units=disk_chunks * CHUNK_UNITS,
        )

    def commands(self, *kinds: type[Command]) -> list:
        """Take what was planned; it is all of these kinds."""
        commands = self.planner.take_commands()
        assert all(isinstance(command, kinds) for command in commands), commands
        return commands

    def end(self, command: Command, num_ok: int, status: CompletionStatus = OK) -> None:
        self.planner.apply(
            TickRecord(1000, (Completion(command.command_id, num_ok, status),), self.planner_rates)
        )

    planner_rates = Rates()

    def pass_time(self, seconds: float) -> None:
        self.planner.apply(TickRecord(round(seconds * 1e6), (), self.planner_rates))

    def keep(self, tokens: np.ndarray) -> None:
        """Store a prompt; nothing else is under way."""
        store = self.planner.store(tokens, identity_slots, time=self.planner.new_admission())
        self.planner.take_commands()
        self.end(store, len(store.chunks))

    def request(self, tokens: np.ndarray) -> list[Put]:
        """Keep a prompt, of which a part may be kept; gives what is to be written then."""
        store = self.planner.store(tokens, identity_slots, time=self.planner.new_admission())
        if store is not None:
            self.end(store, len(store.chunks))
        self.pass_time(0.001)
        return [command for command in self.planner.take_commands() if isinstance(command, Put)]

    def ask(self, tokens: np.ndarray, num_found: int):
        """A request queues, and the first server has so much of what was asked."""
        prefetch = self.planner.prefetch(tokens)
        [lookup] = self.commands(Lookup)
        self.end(lookup, num_found)
        return prefetch
