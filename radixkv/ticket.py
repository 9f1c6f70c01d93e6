"""Ticket: what `KVCache` gives for something under way."""

from __future__ import annotations

import time
from collections.abc import Callable

from radixkv.commands import Completion, CompletionStatus
from radixkv.executor import Executor


class Ticket:
    """Something under way: wait for it, or for one of its layers.

    Attributes:
        command_id: Its number, as planner and executor have it.
        completion: How it ended; None until a tick has heard of its end.
    """

    def __init__(self, command_id: int, executor: Executor, tick: Callable[[], object]) -> None:
        self.command_id = command_id
        self.completion: Completion | None = None
        self._executor = executor
        self._tick = tick

    @property
    def done(self) -> bool:
        """Whether `tick()` has heard of its end."""
        return self.completion is not None

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Tick until it ended; whether all of it is done. Not for engines with several ranks.

        Raises:
            TimeoutError: It did not end in time; it still may.
        """
        deadline = time.monotonic() + timeout_s
        while self.completion is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"command {self.command_id} did not end in {timeout_s} s")
            self._executor.wait(0.05)
            self._tick()
        return self.completion.status is CompletionStatus.OK

    def wait_layer(self, layer: int, timeout_s: float = 60.0, stream: int = 0) -> bool:
        """Block until a load has copied this layer; False if it failed or time ran out.

        On a GPU it is `stream` that waits, not the caller.
        """
        return self._executor.wait_layer(self.command_id, layer, timeout_s, stream)
