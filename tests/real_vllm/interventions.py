"""What tests change inside a running connector: guards taken out, copies late or wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from radixkv import CompletionStatus, Load, Store
from vllm_ext.metadata import WorkerReport


def shuffle_loads(scheduler: Any, worker: Any) -> None:
    """Every load brings the right blocks, to the wrong places."""
    submit = worker.executor.submit

    def shuffled(command: Any) -> None:
        if isinstance(command, Load):
            command = dataclasses.replace(command, slots=command.slots[::-1].copy())
        submit(command)

    worker.executor.submit = shuffled


def begin_stores_late(scheduler: Any, worker: Any) -> None:
    """A store reads its blocks two steps later, or when somebody waits for a completion."""
    submit, wait, end_step = worker.executor.submit, worker.executor.wait, worker.end_step
    late: list[list[Any]] = [[], []]

    def submit_late(command: Any) -> None:
        if isinstance(command, Store):
            late[-1].append(command)
        else:
            submit(command)

    def wait_for_late(timeout_s: float) -> None:
        for commands in late:
            while commands:
                submit(commands.pop(0))
        wait(timeout_s)

    def end_step_late() -> set[str]:
        for command in late.pop(0):
            submit(command)
        late.append([])
        received: set[str] = end_step()
        return received

    worker.executor.submit = submit_late
    worker.executor.wait = wait_for_late
    worker.end_step = end_step_late


def overwrite_what_is_stored(scheduler: Any, worker: Any) -> None:
    """Guard out: a step begins although stores still read blocks that it overwrites."""
    worker._await = lambda command_ids: None


def store_after_failed_loads(scheduler: Any, worker: Any) -> None:
    """Guard out: what is computed on top of a failed load is stored like anything else."""
    end = worker._end

    def forgetful(completion: Any) -> None:
        end(completion)
        worker._unheard_failures.clear()

    worker._end = forgetful


def believe_all_stores(scheduler: Any, worker: Any) -> None:
    """Guard out: the scheduler believes stores of a plan that it made before it heard of a failed
    load.
    """
    hear = scheduler.hear
    scheduler.hear = lambda report, **_: hear(report)


def forget_loads_of_aborted(scheduler: Any, worker: Any) -> None:
    """Guard out: nobody hears of the end of a load whose request has gone."""
    finished = scheduler.finished

    def forgetful(request: Any, block_ids: list[int]) -> None:
        finished(request, block_ids)
        for command_id, request_id in list(worker._waiting.items()):
            if request_id == request.request_id:
                del worker._waiting[command_id]

    scheduler.finished = forgetful


def store_what_has_left_the_window(scheduler: Any, worker: Any) -> None:
    """Guard out: stores read blocks that vLLM has given to others since."""
    scheduler._blocks.note_held = lambda state, num_computed: None


def store_at_the_end_only(scheduler: Any, worker: Any) -> None:
    """What is not yet at its end is dropped, as when too much is under way; then nothing is."""
    store = scheduler.planner.store
    scheduler.planner._max_store_tokens = math.inf

    def dropped(*args: Any, tail: bool, **kwargs: Any) -> Any:
        return store(*args, tail=tail, **kwargs) if tail else None

    scheduler.planner.store = dropped


def load_groups_crosswise(scheduler: Any, worker: Any) -> None:
    """The first two groups of layers get each other's KV."""
    open_state = scheduler._open

    def crossed(request: Any) -> Any:
        state = open_state(request)
        first, second, *_ = state.groups
        first.tree, second.tree = second.tree, first.tree
        return state

    def open_once(request: Any) -> Any:
        known = scheduler._requests.get(request.request_id)
        return crossed(request) if known is None else known

    scheduler._open = open_once


def add_a_faulty_rank(scheduler: Any, worker: Any) -> None:
    """A second rank does the same a step later, but every third store of its fails half way."""
    scheduler._settings = dataclasses.replace(scheduler._settings, num_ranks=2)
    take_report = worker.take_report
    late: list[Any] = []
    num_stores = 0

    def second(completion: Any) -> Any:
        nonlocal num_stores
        if completion.command_id not in scheduler._blocks._reading:
            return completion
        num_stores += 1
        if num_stores % 3:
            return completion
        half = completion.num_ok // 2
        return dataclasses.replace(completion, num_ok=half, status=CompletionStatus.FAILED)

    def take_both() -> Any:
        first = take_report()
        reports = [*late, *([] if first is None else [first])]
        late.clear()
        if first is not None:
            completions = [outcome.completion for outcome in first.outcomes.values()]
            late.append(WorkerReport.of_rank(map(second, completions), 0.0))
        if len(reports) == 2:
            return reports[0].aggregate(reports[1])
        return reports[0] if reports else None

    worker.take_report = take_both


def skip_layer_waits(scheduler: Any, worker: Any) -> None:
    """Steps run without a call before each layer, as a graph does that was captured whole."""
    worker.wait_layer = lambda layer_name: None


def hold_next(executor: Any, kind: type) -> Callable[[], None]:
    """Nobody hears of the end of the next command of a kind until what this gives is called."""
    submit, poll = executor.submit, executor.poll
    held: list[int] = []
    late: list[Any] = []

    def submit_one(command: Any) -> None:
        if isinstance(command, kind) and not held:
            held.append(command.command_id)
        submit(command)

    def poll_others() -> list[Any]:
        ended = poll()
        late.extend(one for one in ended if one.command_id in held)
        return [one for one in ended if one.command_id not in held]

    def poll_all() -> list[Any]:
        ended = [*late, *poll()]
        late.clear()
        return ended

    def release() -> None:
        executor.submit, executor.poll = submit, poll_all

    executor.submit, executor.poll = submit_one, poll_others
    return release
