"""A tier that fails is left alone for a while, longer each time."""

from __future__ import annotations

from radixkv.commands import CompletionStatus


class Pause:
    """When one tier may be asked again. Time is the planner's, in microseconds.

    Args:
        first_us: The pause after a failure that follows a success.
        last_us: Pauses double up to this.
    """

    def __init__(self, first_us: int, last_us: int) -> None:
        self._first_us = first_us
        self._last_us = last_us
        self._next_us = first_us
        self._until_us = 0

    def note(self, status: CompletionStatus, now_us: int) -> None:
        """A command to the tier ended so."""
        if status in (CompletionStatus.FAILED, CompletionStatus.FULL):
            self._until_us = now_us + self._next_us
            self._next_us = min(2 * self._next_us, self._last_us)
        elif status is CompletionStatus.OK:
            self._next_us = self._first_us

    def is_over(self, now_us: int) -> bool:
        """Whether the tier may be asked now."""
        return now_us >= self._until_us
