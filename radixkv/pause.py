"""A tier that fails is left alone for a while, longer each time."""

from __future__ import annotations

import logging

from radixkv.commands import CompletionStatus

_log = logging.getLogger(__name__)


class Pause:
    """When one tier may be asked again. Time is the planner's, in microseconds.

    Args:
        first_us: The pause after a failure that follows a success.
        last_us: Pauses double up to this.
        told_as: What the log calls the tier, where nobody else tells that it fails.
    """

    def __init__(self, first_us: int, last_us: int, told_as: str = "") -> None:
        self._first_us = first_us
        self._last_us = last_us
        self._told_as = told_as
        self._next_us = first_us
        self._until_us = 0
        self._is_told = False

    def note(self, status: CompletionStatus, now_us: int) -> None:
        """A command to the tier ended so."""
        if status in (CompletionStatus.FAILED, CompletionStatus.FULL):
            self._tell_failure(now_us)
            self._until_us = now_us + self._next_us
            self._next_us = min(2 * self._next_us, self._last_us)
        elif status is CompletionStatus.OK:
            if self._is_told:
                _log.info("%s: serves again", self._told_as)
                self._is_told = False
            self._next_us = self._first_us

    def is_over(self, now_us: int) -> bool:
        """Whether the tier may be asked now."""
        return now_us >= self._until_us

    def _tell_failure(self, now_us: int) -> None:
        """One failure may be of a chunk that was dropped meanwhile; one after a pause is not."""
        was_tried_again = self._next_us > self._first_us and self.is_over(now_us)
        if self._told_as and was_tried_again and not self._is_told:
            last_s = self._last_us / 1e6
            _log.warning("%s: fails, tried again at least every %g s", self._told_as, last_s)
            self._is_told = True
