"""The control plane: lives in vLLM's scheduler, plans what the workers do in each step.

    on_new_request          a request queues: what disk and remote servers have begins to move
    match                   how much memory has beyond the device; None while that goes on
    after_alloc             blocks are there: plan the load
    build_plan              a step is scheduled: plan the stores of what the steps before computed
    hear                    workers reported: what ended, on all ranks, becomes visible
    finished                a request ends: plan the store of its rest

A step's plan reaches a worker when all steps before it have been computed, and is carried out
before its own step begins. So a store reads blocks that are complete; and one whose blocks are
overwritten in the same step, because they were freed meanwhile, is named in `awaited`, or where
another connector fills them in `ended_first`: the step begins when it has ended. No block waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from typing import Any

from radixkv import (
    Completion,
    CompletionStatus,
    Load,
    Planner,
    RankGroup,
    RateMeter,
    Store,
    TickRecord,
    inspect_ranks,
    keep_index,
    recall,
    serve_status,
)
from vllm_ext.adapters import on_replaced
from vllm_ext.blocks import Allocations, BlockBook
from vllm_ext.identity import Namespaces, engine_namespaces
from vllm_ext.kv_events import TierEvents
from vllm_ext.layout import block_slots
from vllm_ext.metadata import IDLE, QUIET, Outcome, StepPlan, WorkerReport, join
from vllm_ext.requests import GroupState, RequestState, adapter_of, tokens_of, wishes_of
from vllm_ext.settings import EngineSettings
from vllm_ext.stores import StorePlanner

logger = logging.getLogger(__name__)


class SchedulerSide:
    """The planner of one engine.

    Args:
        settings: What both sides know of the engine.
        vllm_config: vLLM's settings.
        kv_cache_config: How its KV cache was laid out.

    Raises:
        TierError: The disk cannot be read, or its files do not belong together.
    """

    def __init__(self, settings: EngineSettings, vllm_config: Any, kv_cache_config: Any) -> None:
        config, layout = settings.config, settings.layout
        self._settings = settings
        self._block_tokens = settings.block_tokens
        self.planner = Planner.from_config(
            layout,
            config,
            max_store_tokens=config.store_max_inflight
            * settings.num_blocks
            * settings.block_tokens,
        )
        spaces = engine_namespaces(vllm_config, kv_cache_config, settings)
        self._namespaces = Namespaces(self.planner, spaces)
        told = getattr(vllm_config, "kv_events_config", None)
        self.events: TierEvents | None = None
        if told is not None and told.enable_kv_cache_events:
            self.events = TierEvents(self.planner.index, self._namespaces)
        self._requests: dict[str, RequestState] = {}
        self._loading: dict[int, str] = {}  # command id of a load → request
        self._outside: set[int] = set()  # loads whose requests wait outside the batch
        self._blocks = BlockBook(settings.block_tokens)
        self._allocations = Allocations(settings.block_tokens)
        self._stores = StorePlanner(self.planner, settings, self._blocks, self._requests)
        self._outcomes: dict[int, Outcome] = {}  # of commands that some rank has not ended yet
        self._failed_loads: list[int] = []
        self._distrusted: set[int] = set()  # stores under way of what a failed load may have spoilt
        self._meter = RateMeter(time.monotonic(), config.chunk_tokens)
        logging.getLogger("radixkv").setLevel(config.log_level.upper())
        on_replaced(self)
        self._restore()
        folder = config.disk_path
        self._keeper = None if folder is None else keep_index(self.planner.index, folder)
        self._status = serve_status(self.planner) if config.metrics else None

    def close(self) -> None:
        """`radixkv top` sees it no longer."""
        if self._status is not None:
            self._status.close()
        if self._keeper is not None:
            self._keeper.close()

    # --- a request waits in the queue

    def on_new_request(self, request: Any) -> None:
        """A request queues. What disk and remote servers have of it begins to move."""
        state = self._open(request)
        if state is not None and state.reads:
            self._begin_prefetches(state)

    def match(self, request: Any, num_local: int) -> tuple[int | None, bool]:
        """Tokens in memory beyond the first `num_local`, which the device has.

        Returns:
            Their number, None to be asked again later; and whether they are loaded while the
            request waits.
        """
        self._allocations.matched(request, num_local)
        state = self._open(request)
        if state is None:
            return 0, False
        state.take_in_tokens()
        self._trees_of(request)  # its adapter may have changed while it waited
        if not state.reads or num_local % self._block_tokens:
            return 0, False
        state.joins_at_once = self._joins_at_once(state)
        limit = self._matchable(state)
        found = self._found_in_memory(state, limit)
        if any(group.is_coming(num_local) for group in state.groups) and all(
            num_tokens > num_local or group.is_coming(num_local)
            for group, num_tokens in zip(state.groups, found, strict=True)
        ):
            return None, False
        if self._end_prefetches(state):
            found = self._found_in_memory(state, limit)  # a tail may leave that only they held
        num_tokens = self._settings.layout.whole_blocks(min(found)) - num_local
        state.local_tokens = num_local
        return (num_tokens, not state.joins_at_once) if num_tokens > 0 else (0, False)

    def after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The request has blocks: load what the last match promised into them."""
        state = self._requests.get(request.request_id)
        if state is None or num_external_tokens == 0:
            self._allocations.given(request, blocks)
            return
        last = state.local_tokens + num_external_tokens
        time = state.admit(self.planner)
        for group, ids in zip(state.groups, blocks.get_block_ids(), strict=True):
            first = max(state.local_tokens, group.needed_from(last, self._block_tokens))
            with self.planner.acquire(state.tokens, group.tree, limit=last, time=time) as handle:
                slots = block_slots(ids, self._block_tokens, first, last)
                load = self.planner.load(handle, first, slots)
            self._loading[load.command_id] = request.request_id
            if not state.joins_at_once:
                self._outside.add(load.command_id)
            self._blocks.overwrite(ids, first)

    def hit_sources(self, request: Any, num_external_tokens: int) -> dict[str, int]:
        """Of the tokens that are loaded, which tier had them when the request came."""
        return self._requests[request.request_id].hit_sources(num_external_tokens)

    def _open(self, request: Any) -> RequestState | None:
        """The state of a request; None where its token ids do not say what its KV is."""
        state = self._requests.get(request.request_id)
        if state is not None:
            return state
        tokens = tokens_of(request)
        trees = None if tokens is None else self._trees_of(request)
        if tokens is None or trees is None:
            return None
        windows = (group.window for group in self._settings.groups)
        reads, writes = wishes_of(request)
        state = RequestState(
            request=request,
            groups=[GroupState(*pair) for pair in zip(trees, windows, strict=True)],
            tokens=tokens,
            reads=self._settings.reads and reads,
            writes=self._settings.writes and writes,
        )
        self._requests[request.request_id] = state
        return state

    def _trees_of(self, request: Any) -> tuple[int, ...] | None:
        """A request's trees; without any, what runs with the same adapter is stored no more."""
        trees = self._namespaces.trees_of(request)
        if trees is None:
            self._end_stores_of(request.lora_request)
        return trees

    def replace_adapter(self, lora: Any) -> None:
        """vLLM is about to read others in place of a LoRA adapter's weights. What has been stored
        so far is the old ones'.
        """
        self._namespaces.replace_adapter(lora)
        self._end_stores_of(lora)

    def _end_stores_of(self, lora: Any) -> None:
        for state in self._requests.values():
            if adapter_of(state.request) == lora.lora_int_id:
                state.reads = state.writes = False

    def _matchable(self, state: RequestState) -> int:
        """At least one token is left to compute: it gives the next one. Two where "auto" lets the
        batch wait: one may be replayed as a graph that was captured whole, in which no layer waits.
        """
        num_left = 2 if state.joins_at_once and self._settings.loads == "auto" else 1
        return self._settings.layout.whole_blocks(max(0, len(state.tokens) - num_left))

    def _found_in_memory(self, state: RequestState, limit: int) -> list[int]:
        """Tokens for each group of layers."""
        return [
            self.planner.match(state.tokens, group.tree, limit=limit).num_memory_tokens
            for group in state.groups
        ]

    def _joins_at_once(self, state: RequestState) -> bool:
        """Whether the batch waits for the request's load, layer by layer.

        A request that is alone holds up nobody, and has its first token sooner.
        """
        if self._settings.loads == "auto":
            return len(self._requests) == 1
        return self._settings.loads == "sync"

    def _begin_prefetches(self, state: RequestState) -> None:
        limit = self._matchable(state)
        for group in state.groups:
            prefetch = self.planner.prefetch(state.tokens, group.tree, limit=limit)
            group.prefetch = prefetch
            if prefetch is not None:
                group.memory_end = group.disk_end = prefetch.tokens_before
                if prefetch.uses_disk:
                    group.disk_end = prefetch.handle.num_tokens

    def _end_prefetches(self, state: RequestState) -> bool:
        """Whether there were any."""
        prefetches = [group.prefetch for group in state.groups if group.prefetch is not None]
        for prefetch in prefetches:
            self.planner.end_prefetch(prefetch)
        for group in state.groups:
            group.prefetch = None
        return bool(prefetches)

    # --- a step is scheduled

    def build_plan(self, output: Any) -> StepPlan:
        """What the workers do in the step that vLLM has just scheduled.

        Args:
            output: vLLM's `SchedulerOutput`.
        """
        self._apply(())
        self._meter.note_computed(self._stores.plan(output))
        commands = self.planner.take_commands()
        awaited = self._blocks.take_awaited()
        ended_first = self._blocks.readers_of(self._allocations.take_filled_by_others(output))
        is_idle = not output.total_num_scheduled_tokens
        if not (commands or awaited or ended_first or self._failed_loads):
            return IDLE if is_idle else QUIET
        heard, self._failed_loads = self._failed_loads, []
        return StepPlan(commands, self._waiting(commands), awaited, ended_first, heard, is_idle)

    def _waiting(self, commands: Iterable[Any]) -> dict[int, str]:
        """Loads whose requests wait outside the batch until they hear of the end."""
        ids = [command.command_id for command in commands if isinstance(command, Load)]
        return {load: self._loading[load] for load in ids if load in self._outside}

    # --- a step has run

    def hear(self, report: Any, *, has_lost_blocks: bool = False) -> None:
        """Take in what the workers report; None is nothing.

        Args:
            report: A `WorkerReport`.
            has_lost_blocks: A load failed in the step, ours or that of another connector, of which
                our workers do not hear. What the plans made meanwhile store may be computed on it.
        """
        if isinstance(report, WorkerReport):
            self._take_in(report)
        if has_lost_blocks:
            self._distrusted.update(self._blocks.stores)
            self._forget_computed()

    def _take_in(self, report: WorkerReport) -> None:
        self._meter.fetch_bytes_per_s = report.fetch_bytes_per_s
        self._meter.get_bytes_per_s = report.get_bytes_per_s
        self._outcomes = join(self._outcomes, report.outcomes)
        ended = [
            outcome.completion
            for outcome in self._outcomes.values()
            if outcome.num_ranks == self._settings.num_ranks
        ]
        for completion in ended:
            del self._outcomes[completion.command_id]
        self._apply(ended)

    def _apply(self, completions: Collection[Completion]) -> None:
        now = time.monotonic()
        if not completions and not self.planner.needs_ticks:
            self._meter.look(now)
            return
        elapsed_us, rates = self._meter.read(now)
        believed = (self._believed(completion) for completion in completions)
        in_order = tuple(sorted(believed, key=lambda completion: completion.command_id))
        for command, completion in self.planner.apply(TickRecord(elapsed_us, in_order, rates)):
            if isinstance(command, Store):
                self._blocks.end(command)
            elif isinstance(command, Load):
                self._end_load(command, completion)

    def _believed(self, completion: Completion) -> Completion:
        if completion.command_id not in self._distrusted:
            return completion
        self._distrusted.remove(completion.command_id)
        return Completion(completion.command_id, 0, CompletionStatus.FAILED)

    def _end_load(self, command: Load, completion: Completion) -> None:
        state = self._requests.get(self._loading.pop(command.command_id))
        self._outside.discard(command.command_id)
        if completion.status is not CompletionStatus.OK:
            self._failed_loads.append(command.command_id)
            self._forget_computed()
            if state is not None:
                state.reads = False  # vLLM asks again: it is to compute what could not be loaded

    def _forget_computed(self) -> None:
        """vLLM may say that less is computed than it was."""
        for state in self._requests.values():
            state.computed_tokens = 0

    @property
    def is_busy(self) -> bool:
        """Whether any command is under way: vLLM must go on stepping to hear of its end."""
        return bool(self.planner.pending_ids)

    # --- a request ends

    def finished(self, request: Any, block_ids: Iterable[list[int]]) -> None:
        """The request has ended, its blocks are about to be freed. Keep what it computed."""
        state = self._requests.pop(request.request_id, None)
        if state is None:
            return
        self._end_prefetches(state)
        self._stores.end(state, block_ids)

    def reset(self) -> bool:
        """Forget everything, on every tier, and what is being computed or loaded now: vLLM clears
        its caches when the weights change. The disk may outlive the new ones, so from now on KV
        has another name than what the next engine reads at the model's path.
        """
        for request_id, state in list(self._requests.items()):
            self._end_prefetches(state)
            if state.admission:
                state.writes = False
            else:
                del self._requests[request_id]  # its next match finds the new tree
        self.planner.clear(disk=True)
        self._namespaces.begin_anew()
        return True

    def _restore(self) -> None:
        """Find what the disk holds. The workers have opened it and wait for the first command."""
        folder = self._settings.config.disk_path
        if folder is None:
            return
        restored = inspect_ranks(folder, self._settings.num_ranks)
        if restored is None:
            logger.warning(
                "disk: %s lacks files of %d ranks (are some on other hosts?): taken to be empty",
                folder,
                self._settings.num_ranks,
            )
            return
        saved, is_lost = recall(folder, self.planner.index, RankGroup())
        self.planner.counters.recalls_failed += is_lost
        self.planner.restore(restored, saved)
        logger.info("disk: %d chunks found in %s", len(restored), folder)
