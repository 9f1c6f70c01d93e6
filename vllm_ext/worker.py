"""The data plane: lives in each of vLLM's workers, carries out plans and reports how they ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from radixkv import Command, Completion, CompletionStatus, EngineMemory, Executor, Load, Store
from vllm_ext.layout import find_memory, slots_of
from vllm_ext.metadata import StepPlan, WorkerReport
from vllm_ext.settings import EngineSettings

logger = logging.getLogger(__name__)

_LAYER_TIMEOUT_S = 60.0
_IDLE_WAIT_S = 2e-3  # a step without requests lasts as long, unless something ends


class WorkerSide:
    """The executor of one rank.

    Args:
        settings: What both sides know of the engine.
        rank: Of this worker.

    Raises:
        TierError: A tier could not be opened; the reason says what to do.
    """

    def __init__(self, settings: EngineSettings, rank: int) -> None:
        self._settings = settings
        self._layer_numbers = {
            name: number
            for group in settings.groups
            for number, name in enumerate(group.layer_names)
        }
        self.executor = Executor.from_config(
            settings.layout,
            settings.config,
            group_id=settings.group_id,
            rank=rank,
            world_size=settings.num_ranks,
        )
        self._memory: EngineMemory | None = None
        self._plan: StepPlan | None = None
        self._under_way: set[int] = set()  # commands whose end is not heard
        self._copies: dict[int, Store | Load] = {}  # of those
        self._waiting: dict[int, str] = {}  # load → request that waits outside the batch
        self._sync_loads: list[int] = []  # loads of the running step
        self._layers_waited: set[int] = set()  # for which the running step has waited
        self._unawaited: set[int] = set()  # loads of a step that did not wait for every layer
        self._ended: list[Completion] = []
        self._received: set[str] = set()
        self._lost_blocks: set[int] = set()
        self._failed_requests: set[str] = set()
        self._unheard_failures: set[int] = set()
        logging.getLogger("radixkv").setLevel(settings.config.log_level.upper())

    def attach(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        """Name vLLM's KV cache.

        Raises:
            UnsupportedError: It does not lie as its configuration says.
        """
        settings = self._settings
        self._memory = find_memory(
            settings.layout,
            settings.block_tokens,
            settings.groups,
            kv_caches,
            settings.num_blocks,
        )
        self.executor.attach(self._memory)

    def begin_step(self, plan: StepPlan) -> None:
        """Carry out a plan, before its step computes. Another call with it does nothing, be it in
        the same step or in the next one, where both share a plan since there is nothing to do.
        """
        if plan is self._plan:
            return
        self._plan = plan
        stream = self._stream()
        self.executor.follow_stream(stream)
        self._unheard_failures -= set(plan.failed_loads_heard)
        self._waiting |= plan.waiting
        loads = [command for command in plan.commands if isinstance(command, Load)]
        for command in plan.commands:
            if not isinstance(command, Load):
                self._submit(command)
        self._await_stores(plan.awaited, stream)
        self._await(plan.ended_first)
        for load in loads:
            self._submit(load)
        self.executor.begin_loads()
        self._sync_loads = [
            load.command_id for load in loads if load.command_id not in plan.waiting
        ]

    def wait_layer(self, layer_name: str) -> None:
        """Block until the running step's own loads have brought a layer, or failed."""
        layer = self._layer_numbers.get(layer_name) if self._sync_loads else None
        if layer is None:
            return
        self._layers_waited.add(layer)
        for command_id in self._sync_loads:
            if command_id in self._copies:
                self.executor.wait_layer(command_id, layer, _LAYER_TIMEOUT_S, self._stream())

    def end_step(self) -> set[str]:
        """The step has computed: hear what ended; gives the requests whose loads have."""
        if self._sync_loads and len(self._layers_waited) < len(self._layer_numbers):
            logger.error("a step did not wait for its loads: what it computed is not used")
            self._unawaited.update(self._sync_loads)
        self._layers_waited.clear()
        if self._sync_loads:
            self._await(self._sync_loads)
            self._sync_loads = []
        self._poll()
        if self._plan is not None and self._plan.is_idle and not self._ended:
            self.executor.wait(_IDLE_WAIT_S)
            self._poll()
        received, self._received = self._received, set()
        return received

    def take_lost_blocks(self) -> set[int]:
        """Blocks that a load was to fill and did not, since the last call."""
        lost, self._lost_blocks = self._lost_blocks, set()
        return lost

    def take_failed_requests(self, received: set[str]) -> set[str]:
        """Of the requests that have received all, those that did not do so well. Where a failure
        costs the whole request vLLM wants to hear of it instead of its blocks.
        """
        failed = self._failed_requests & received
        self._failed_requests -= failed
        return failed

    def take_report(self) -> WorkerReport | None:
        """What ended since the last call."""
        ended, self._ended = self._ended, []
        if not ended:
            return None
        stats = self.executor.stats()
        rates = (stats.fetch.recent_gbps * 1e9, stats.get.recent_gbps * 1e9)
        return WorkerReport.of_rank(ended, *rates)

    def close(self) -> None:
        """vLLM shuts down."""
        self.executor.close()

    def _submit(self, command: Command) -> None:
        self._under_way.add(command.command_id)
        if isinstance(command, Store) and self._unheard_failures:
            self._end(Completion(command.command_id, 0, CompletionStatus.FAILED))
            return
        if isinstance(command, Store | Load):
            self._copies[command.command_id] = command
        try:
            self.executor.submit(command)
        except Exception:
            logger.exception("command %d could not be begun", command.command_id)
            self._end(Completion(command.command_id, 0, CompletionStatus.FAILED))

    def _await_stores(self, command_ids: list[int], stream: int) -> None:
        """Let them end before the step computes. On a GPU its stream waits: if this thread did, it
        would wait for the step before as well, and the GPU then for it.
        """
        for command_id in command_ids:
            if command_id in self._copies and not self.executor.hold_for_store(command_id, stream):
                self._await([command_id])

    def _await(self, command_ids: list[int]) -> None:
        """Block until these copies have ended, however they end."""
        while any(command_id in self._copies for command_id in command_ids):
            self._poll()
            if any(command_id in self._copies for command_id in command_ids):
                self.executor.wait(1.0)

    def _poll(self) -> None:
        if not self._under_way:
            return  # as in most steps
        for completion in self.executor.poll():
            self._end(completion)

    def _end(self, completion: Completion) -> None:
        self._under_way.discard(completion.command_id)
        if completion.command_id in self._unawaited:
            self._unawaited.remove(completion.command_id)
            completion = Completion(completion.command_id, 0, CompletionStatus.FAILED)
        self._ended.append(completion)
        copy = self._copies.pop(completion.command_id, None)
        if not isinstance(copy, Load):
            return
        request_id = self._waiting.pop(completion.command_id, None)
        if request_id is not None and request_id not in self._waiting.values():
            self._received.add(request_id)
        if completion.status is CompletionStatus.OK:
            return
        self._unheard_failures.add(completion.command_id)
        if self._settings.fails_whole_requests:
            if request_id is not None:
                self._failed_requests.add(request_id)
            return
        num_good = int(copy.chunks["count"][: completion.num_ok].sum())
        lost = slots_of(copy)[num_good:] // self._settings.block_tokens
        self._lost_blocks.update(lost.tolist())

    def _stream(self) -> int:
        """The stream on which vLLM computes; it may choose another one with the first step."""
        device = None if self._memory is None else self._memory.device
        return 0 if device is None else int(torch.cuda.current_stream(device).cuda_stream)
