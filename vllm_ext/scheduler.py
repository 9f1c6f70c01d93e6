"""The control plane: lives in vLLM's scheduler, plans what the workers do in each step.

    on_new_request          a request queues: what disk and remote servers have begins to move
    match                   how much memory has beyond the device; None while that goes on
    after_alloc             blocks are there: plan the load
    build_plan              a step is scheduled: plan the stores of what the steps before computed
    hear                    workers reported: what ended, on all ranks, becomes visible
    finished                a request ends: plan the store of its rest

A step's plan reaches a worker when all steps before it have been computed, and is carried out
before its own step begins. So a store reads blocks that are complete; and one whose blocks are
overwritten in the same step, because they were freed meanwhile, is named in `awaited`: the step
begins when it has ended. No block is held back from vLLM.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from radixkv import (
    Completion,
    CompletionStatus,
    Load,
    Planner,
    RateMeter,
    Store,
    TickRecord,
    inspect_ranks,
    serve_status,
)
from vllm_ext.identity import Namespaces, engine_namespace
from vllm_ext.kv_events import TierEvents
from vllm_ext.layout import block_slots, blocks_of, slots_of
from vllm_ext.metadata import Outcome, StepPlan, WorkerReport, join
from vllm_ext.requests import RequestState, may_read, may_write, tokens_of
from vllm_ext.settings import EngineSettings

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
        self._chunk_tokens = config.chunk_tokens
        self.planner = Planner.from_config(
            layout,
            config,
            max_store_tokens=config.store_max_inflight
            * settings.num_blocks
            * settings.block_tokens,
        )
        space = engine_namespace(
            vllm_config, kv_cache_config, layout, config.chunk_tokens, config.namespace_salt
        )
        self._namespaces = Namespaces(self.planner, space)
        told = getattr(vllm_config, "kv_events_config", None)
        self.events: TierEvents | None = None
        if told is not None and told.enable_kv_cache_events:
            self.events = TierEvents(self.planner.index, self._namespaces)
        self._requests: dict[str, RequestState] = {}
        self._loading: dict[int, str] = {}  # command id of a load → request
        self._reading: dict[int, set[int]] = {}  # command id of a store → blocks that it reads
        self._written: set[int] = set()  # blocks that the step being scheduled overwrites
        self._outcomes: dict[int, Outcome] = {}  # of commands that some rank has not ended yet
        self._failed_loads: list[int] = []
        self._meter = RateMeter(time.monotonic(), config.chunk_tokens)
        logging.getLogger("radixkv").setLevel(config.log_level.upper())
        self._restore()
        self._status = serve_status(self.planner) if config.metrics else None

    def close(self) -> None:
        """`radixkv top` sees it no longer."""
        if self._status is not None:
            self._status.close()

    # --- a request waits in the queue

    def on_new_request(self, request: Any) -> None:
        """A request queues. What disk and remote servers have of it begins to move."""
        state = self._open(request)
        if state is not None and state.reads:
            self._begin_prefetch(state)

    def match(self, request: Any, num_local: int) -> tuple[int | None, bool]:
        """Tokens in memory beyond the first `num_local`, which the device has.

        Returns:
            Their number, None to be asked again later; and whether they are loaded while the
            request waits.
        """
        state = self._open(request)
        if state is None or not state.reads or num_local % self._block_tokens:
            return 0, False
        state.take_in_tokens()
        limit = self._matchable(state)
        found = self.planner.match(state.tokens, state.tree, limit=limit)
        if state.prefetch is not None:
            if state.prefetch.may_reach_beyond(num_local):
                return None, False
            self._end_prefetch(state)
        num_tokens = self._settings.layout.whole_blocks(found.num_memory_tokens) - num_local
        state.local_tokens = num_local
        return (num_tokens, not self._settings.loads_sync) if num_tokens > 0 else (0, False)

    def after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The request has blocks: load what the last match promised into them."""
        state = self._requests.get(request.request_id)
        if state is None or num_external_tokens == 0:
            return
        first = state.local_tokens
        last = first + num_external_tokens
        block_ids = blocks.get_block_ids()[0]
        with self.planner.acquire(
            state.tokens, state.tree, limit=last, time=self._admission_of(state)
        ) as handle:
            slots = block_slots(block_ids, self._block_tokens, first, last)
            load = self.planner.load(handle, first, slots)
        self._loading[load.command_id] = request.request_id
        self._written.update(block_ids[first // self._block_tokens :])

    def hit_sources(self, request: Any, num_external_tokens: int) -> dict[str, int]:
        """Of the tokens that are loaded, which tier had them when the request came, in the names
        of vLLM's `CacheHitSource`: it has none for a remote server.
        """
        state = self._requests[request.request_id]
        first, last = state.local_tokens, state.local_tokens + num_external_tokens
        memory_end = min(max(first, state.memory_end), last)
        disk_end = min(max(memory_end, state.disk_end), last)
        found = {
            "host": memory_end - first,
            "disk": disk_end - memory_end,
            "external_unspecified": last - disk_end,
        }
        return {source: count for source, count in found.items() if count}

    def _open(self, request: Any) -> RequestState | None:
        """The state of a request; None where its token ids do not say what its KV is."""
        state = self._requests.get(request.request_id)
        if state is not None:
            return state
        tokens = tokens_of(request)
        tree = None if tokens is None else self._namespaces.tree_of(request)
        if tokens is None or tree is None:
            return None
        state = RequestState(
            request=request,
            tree=tree,
            tokens=tokens,
            reads=self._settings.reads and may_read(request),
            writes=self._settings.writes and may_write(request),
        )
        self._requests[request.request_id] = state
        return state

    def _matchable(self, state: RequestState) -> int:
        """At least one token is left to compute: it gives the next one."""
        return self._settings.layout.whole_blocks(len(state.tokens) - 1)

    def _admission_of(self, state: RequestState) -> int:
        if not state.admission:
            state.admission = self.planner.new_admission()
        return state.admission

    def _begin_prefetch(self, state: RequestState) -> None:
        limit = self._matchable(state)
        prefetch = self.planner.prefetch(state.tokens, state.tree, limit=limit)
        state.prefetch = prefetch
        if prefetch is not None:
            state.memory_end = state.disk_end = prefetch.tokens_before
            if prefetch.uses_disk:
                state.disk_end = prefetch.handle.num_tokens

    def _end_prefetch(self, state: RequestState) -> None:
        if state.prefetch is not None:
            self.planner.end_prefetch(state.prefetch)
            state.prefetch = None

    # --- a step is scheduled

    def build_plan(self, output: Any) -> StepPlan:
        """What the workers do in the step that vLLM has just scheduled.

        Args:
            output: vLLM's `SchedulerOutput`.
        """
        self._apply(())
        for state, num_computed in self._follow(output):
            if num_computed >= state.stored_tokens + self._chunk_tokens:
                self._store(state, num_computed, tail=False)
        commands = self.planner.take_commands()
        for command in commands:
            if isinstance(command, Store):
                blocks = blocks_of(slots_of(command), self._block_tokens)
                self._reading[command.command_id] = blocks
        plan = StepPlan(
            commands=commands,
            waiting=self._waiting(commands),
            awaited=[
                command_id
                for command_id, blocks in self._reading.items()
                if not blocks.isdisjoint(self._written)
            ],
            failed_loads_heard=self._failed_loads,
            is_idle=not output.total_num_scheduled_tokens,
        )
        self._written = set()
        self._failed_loads = []
        return plan

    def _follow(self, output: Any) -> Iterator[tuple[RequestState, int]]:
        """Keep up with the blocks that requests have; gives those that ran before, with the number
        of tokens that the steps before this one computed.

        A request that runs for the first time is not among them: what it found on the device may
        be another request's that is computed in this very step.
        """
        num_prompt_tokens = 0
        for new in output.scheduled_new_reqs:
            num_prompt_tokens += output.num_scheduled_tokens[new.req_id]
            state = self._requests.get(new.req_id)
            self._overwrite(new.block_ids[0], new.num_computed_tokens)
            if state is not None:
                state.blocks = list(new.block_ids[0])
                self._admission_of(state)
        cached = output.scheduled_cached_reqs
        for req_id, blocks, num_computed in zip(
            cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True
        ):
            state = self._requests.get(req_id)
            is_resumed = req_id in cached.resumed_req_ids
            if blocks is not None:
                self._overwrite(blocks[0], num_computed if is_resumed else 0)
            if state is None:
                continue
            if num_computed < state.request.num_prompt_tokens:
                num_prompt_tokens += output.num_scheduled_tokens[req_id]
            if is_resumed:
                state.blocks = list(blocks[0])
                continue
            state.blocks.extend(blocks[0] if blocks else ())
            yield state, num_computed
        self._meter.note_computed(num_prompt_tokens)

    def _overwrite(self, block_ids: list[int], num_computed: int) -> None:
        self._written.update(block_ids[num_computed // self._block_tokens :])

    def _waiting(self, commands: Iterable[Any]) -> dict[int, str]:
        """Loads whose requests wait outside the batch until they hear of the end."""
        if self._settings.loads_sync:
            return {}
        ids = (command.command_id for command in commands if isinstance(command, Load))
        return {command_id: self._loading[command_id] for command_id in ids}

    def _store(self, state: RequestState, num_computed: int, *, tail: bool) -> None:
        """Keep what is not kept yet of the tokens that are computed: full chunks, or all blocks."""
        state.take_in_tokens()
        num_tokens = state.known_tokens(num_computed)
        if not self._settings.config.store_decode:
            num_tokens = min(num_tokens, state.request.num_prompt_tokens)
        if not tail:
            num_tokens = num_tokens // self._chunk_tokens * self._chunk_tokens
        if not state.writes or num_tokens <= state.stored_tokens:
            return
        self.planner.store(
            state.tokens,
            lambda first, last: block_slots(state.blocks, self._block_tokens, first, last),
            time=self._admission_of(state),
            namespace=state.tree,
            limit=num_tokens,
            tail=tail,
        )
        state.stored_tokens = num_tokens

    # --- a step has run

    def hear(self, report: Any) -> None:
        """Take in what the workers report; None is nothing."""
        if not isinstance(report, WorkerReport):
            return
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

    def _apply(self, completions: Iterable[Completion]) -> None:
        elapsed_us, rates = self._meter.read(time.monotonic())
        in_order = tuple(sorted(completions, key=lambda completion: completion.command_id))
        for command, completion in self.planner.apply(TickRecord(elapsed_us, in_order, rates)):
            if isinstance(command, Store):
                del self._reading[command.command_id]
            elif isinstance(command, Load):
                self._end_load(command, completion)

    def _end_load(self, command: Load, completion: Completion) -> None:
        state = self._requests.get(self._loading.pop(command.command_id))
        if completion.status is not CompletionStatus.OK:
            self._failed_loads.append(command.command_id)
            if state is not None:
                state.reads = False  # vLLM asks again: it is to compute what could not be loaded

    @property
    def is_busy(self) -> bool:
        """Whether any command is under way: vLLM must go on stepping to hear of its end."""
        return bool(self.planner.pending_ids)

    # --- a request ends

    def finished(self, request: Any, block_ids: list[int]) -> None:
        """The request has ended, its blocks are about to be freed. Keep what it computed."""
        state = self._requests.pop(request.request_id, None)
        if state is None:
            return
        self._end_prefetch(state)
        if state.is_complete and state.blocks:
            state.blocks = block_ids
            state.stored_tokens = 0  # what was dropped or failed meanwhile is tried once more
            self._store(state, request.num_computed_tokens, tail=True)

    def reset(self) -> bool:
        """Forget everything, on every tier, and what is being computed now: vLLM clears its caches
        when the weights change.
        """
        for state in self._requests.values():
            self._end_prefetch(state)
            state.writes = state.writes and not state.blocks
        self.planner.clear(disk=True)
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
        self.planner.restore(restored)
        logger.info("disk: %d chunks found in %s", len(restored), folder)
