"""The commands that a planner has issued and not heard the end of, and what the ticks said."""

from __future__ import annotations

from collections.abc import Iterator

from radixkv.commands import Command, Completion
from radixkv.ticks import Rates, TickRecord


class Ledger:
    """Numbers commands, hands them out once, and keeps them until they have ended.

    Attributes:
        now_us: Time since the start, in microseconds, as the tick records tell it.
        rates: What the last of them said.
        num_issued: Commands so far; the id of the latest.
        pending: Those under way by id, oldest first.
    """

    def __init__(self) -> None:
        self.now_us = 0
        self.rates = Rates()
        self.num_issued = 0
        self.pending: dict[int, Command] = {}
        self._outbox: list[Command] = []

    def next_id(self) -> int:
        """The id that the next command has to carry."""
        return self.num_issued + 1

    def issue(self, command: Command) -> None:
        """A command is to be carried out."""
        assert command.command_id == self.next_id()
        self.num_issued += 1
        self.pending[command.command_id] = command
        self._outbox.append(command)

    def take_outbox(self) -> list[Command]:
        """What was issued since the last call."""
        commands, self._outbox = self._outbox, []
        return commands

    def hear(self, record: TickRecord) -> Iterator[tuple[Command, Completion]]:
        """Take in a record; gives the commands that ended, with how they did, one by one."""
        self.now_us += record.elapsed_us
        self.rates = record.rates
        for completion in record.completions:
            yield self.pending.pop(completion.command_id), completion

    def has_pending(self, *kinds: type[Command]) -> bool:
        """Whether any command of these kinds is under way."""
        return any(isinstance(command, kinds) for command in self.pending.values())
