"""Tick records: how the replicas of a planner, one on each rank, come to hear the same things.

Requests reach the ranks of an engine identically, completions do not: a copy ends on one rank a
step earlier. Ranks that act on what they alone know admit different requests and wait for each
other for ever. So each rank writes what it has heard into a row of fixed length, one minimum over
all ranks (`all_reduce(MIN)` on the CPU group) makes the rows equal, and the planner acts on nothing
else.

    [ elapsed µs | issued | −issued | fetch B/s | compute tokens/s | get B/s | outcomes … ]

An outcome is 0 while the command is under way, and grows with the number of chunks done: the
minimum is *under way* if any rank still works, and otherwise the fewest chunks that any rank has
done. One failed, all failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import Completion, CompletionStatus
from radixkv.errors import RadixKVError

WINDOW = 256
_HEAD = 6
_SEVERITY = (
    CompletionStatus.FULL,
    CompletionStatus.FAILED,
    CompletionStatus.CORRUPT,
    CompletionStatus.ABSENT,
    CompletionStatus.OK,
)

TickRow = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast KV comes from the disk and from remote servers, and how fast the engine computes it;
    0 while not known.
    """

    fetch_bytes_per_s: int = 0
    compute_tokens_per_s: int = 0
    get_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class TickRecord:
    """What all ranks agree on in one scheduler step.

    Attributes:
        elapsed_us: Time since the last tick, the least that any rank measured.
        completions: Commands that ended on every rank, oldest first.
        rates: What the slowest rank measured.
    """

    elapsed_us: int
    completions: tuple[Completion, ...]
    rates: Rates = Rates()


class RateMeter:
    """Measures what a tick record says of time and rates. The caller reads the clock.

        step   launch ─ tick ─ tick, computed ─ tick
               ├──────── time of the prefill ──────┤

    What was launched may be computed at once, or while the next step begins: its time is that of
    all steps from its launch to the one that tells of it.

    Args:
        now_s: The time at which it begins, in seconds of a clock that never falls.
        min_tokens: Fewer tokens computed in one step say nothing about the rate of a prefill.
    """

    def __init__(self, now_s: float, min_tokens: int) -> None:
        self._last_s = now_s
        self._untold_s = 0.0
        self._min_tokens = min_tokens
        self._computed_tokens = 0
        self._is_computing = False
        self._computing_s = 0.0
        self._compute_rate = 0.0  # tokens a second
        self.fetch_bytes_per_s = 0.0
        self.get_bytes_per_s = 0.0

    def note_launched(self) -> None:
        """The engine begins to compute prompts, or lets them wait for its device."""
        self._is_computing = True

    def note_computed(self, num_tokens: int) -> None:
        """The engine has told since the last `look` that so many tokens of prompts are computed."""
        self._computed_tokens += num_tokens

    def read(self, now_s: float) -> tuple[int, Rates]:
        """`look`, and `take`."""
        self.look(now_s)
        return self.take()

    def look(self, now_s: float) -> None:
        """A step ends. Not to look in steps without work would count their time to what follows."""
        elapsed_s = now_s - self._last_s
        self._last_s = now_s
        self._untold_s += elapsed_s
        if self._is_computing or self._computed_tokens:
            self._computing_s += elapsed_s
        if self._computed_tokens >= self._min_tokens and self._computing_s > 0:
            rate = self._computed_tokens / self._computing_s
            self._compute_rate += (rate - self._compute_rate) * (0.2 if self._compute_rate else 1)
        if self._computed_tokens:
            self._is_computing = False
            self._computing_s = 0.0
        self._computed_tokens = 0

    def take(self) -> tuple[int, Rates]:
        """Microseconds since the last `take`, and the rates by now."""
        elapsed_us, self._untold_s = int(self._untold_s * 1e6), 0.0
        rates = Rates(
            int(self.fetch_bytes_per_s), int(self._compute_rate), int(self.get_bytes_per_s)
        )
        return elapsed_us, rates


class ReplicasDivergedError(RadixKVError):
    """The ranks' planners no longer issue the same commands; nothing they say can be trusted."""


def encode(
    elapsed_us: int,
    issued: int,
    pending: Sequence[int],
    heard: Mapping[int, Completion],
    rates: Rates = Rates(),
) -> TickRow:
    """This rank's row.

    Args:
        elapsed_us: Time since the last tick, in microseconds.
        issued: Commands issued so far; ranks whose count differs have diverged.
        pending: Ids of the commands under way, oldest first, the same on every rank.
        heard: Completions that this rank has and the others may not have yet.
        rates: What this rank measured.

    Returns:
        Shape (6 + WINDOW,), int64.
    """
    row = np.zeros(_HEAD + WINDOW, np.int64)
    row[:3] = elapsed_us, issued, -issued
    row[3:_HEAD] = rates.fetch_bytes_per_s, rates.compute_tokens_per_s, rates.get_bytes_per_s
    for place, command_id in enumerate(pending[:WINDOW]):
        completion = heard.get(command_id)
        if completion is not None:
            severity = _SEVERITY.index(completion.status)
            row[_HEAD + place] = 1 + completion.num_ok * len(_SEVERITY) + severity
    return row


def decode(row: TickRow, pending: Sequence[int]) -> TickRecord:
    """What the minimum over all ranks' rows says.

    Raises:
        ReplicasDivergedError: The ranks have issued different numbers of commands.
    """
    if row[1] != -row[2]:
        raise ReplicasDivergedError(
            f"ranks have issued between {row[1]} and {-row[2]} commands; restart the engine"
        )
    completions = []
    for place in np.flatnonzero(row[_HEAD:]).tolist():
        num_ok, severity = divmod(int(row[_HEAD + place]) - 1, len(_SEVERITY))
        completions.append(Completion(pending[place], num_ok, _SEVERITY[severity]))
    return TickRecord(int(row[0]), tuple(completions), Rates(*row[3:_HEAD].tolist()))
