"""What travels between the two planes: a plan down to the workers, a report back up.

scheduler ── StepPlan, in the connector metadata of every step ──────▶ workers
          ◀─ WorkerReport, added up over the ranks by `aggregate` ────
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from radixkv import Command, Completion, CompletionStatus


@dataclass
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """What every worker does in one step.

    Attributes:
        commands: In the order in which they are to be submitted.
        waiting: Command id of a load → the request that waits for it outside the running batch.
        awaited: Stores that read blocks which this step overwrites: they end first.
        ended_first: Stores that read blocks which another connector fills, on whatever stream: they
            end before it is asked to.
        failed_loads_heard: Loads whose failure the scheduler has taken into account since the last
            plan. What is stored from now on was not computed on top of them.
        is_idle: No request runs in this step.
    """

    commands: list[Command] = field(default_factory=list)
    waiting: dict[int, str] = field(default_factory=dict)
    awaited: list[int] = field(default_factory=list)
    ended_first: list[int] = field(default_factory=list)
    failed_loads_heard: list[int] = field(default_factory=list)
    is_idle: bool = False


# Most steps have nothing to do. They share these: a worker that has seen one need not look again.
QUIET = StepPlan()
IDLE = StepPlan(is_idle=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended on some ranks: as on the one where it went worst."""

    num_ranks: int
    completion: Completion

    def join(self, other: Outcome) -> Outcome:
        """How it ended on the ranks of both."""
        worst = min(self.completion, other.completion, key=_goodness)
        return Outcome(self.num_ranks + other.num_ranks, worst)


@dataclass
class WorkerReport(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """What ended on the workers since their last reports.

    Attributes:
        outcomes: By command id.
        fetch_bytes_per_s: How fast the slowest disk is read; 0 while not known.
        get_bytes_per_s: The same of remote servers.
    """

    outcomes: dict[int, Outcome]
    fetch_bytes_per_s: float = 0.0
    get_bytes_per_s: float = 0.0

    @staticmethod
    def of_rank(
        completions: Iterable[Completion], fetch_bytes_per_s: float, get_bytes_per_s: float = 0.0
    ) -> WorkerReport:
        """One rank's report."""
        outcomes = {completion.command_id: Outcome(1, completion) for completion in completions}
        return WorkerReport(outcomes, fetch_bytes_per_s, get_bytes_per_s)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> WorkerReport:
        """One report of all the ranks behind the two."""
        assert isinstance(other, WorkerReport)
        return WorkerReport(
            join(self.outcomes, other.outcomes),
            _slowest(self.fetch_bytes_per_s, other.fetch_bytes_per_s),
            _slowest(self.get_bytes_per_s, other.get_bytes_per_s),
        )


def join(some: Mapping[int, Outcome], more: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """Outcomes of both, joined where a command is in both."""
    joined = dict(some)
    for command_id, outcome in more.items():
        known = joined.get(command_id)
        joined[command_id] = outcome if known is None else known.join(outcome)
    return joined


def _slowest(*rates: float) -> float:
    return min((rate for rate in rates if rate), default=0.0)


def _goodness(completion: Completion) -> tuple[int, bool]:
    return completion.num_ok, completion.status is CompletionStatus.OK
