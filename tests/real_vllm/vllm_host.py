"""Runs in an environment that has vLLM: holds one engine at a time and does what its stdin says.

    {"call": "start", "model": "/tmp/llama", "connector": {…}, "engine": {"block_size": 32}}
    {"call": "generate", "prompts": [[1, 2, 3]], "max_tokens": 8}

One line in, one line out; the engine lives in this process, so that tests reach its insides. What
vLLM prints goes to stderr.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import interventions
import safetensors.torch
import stored_forms
from vllm import LLM, SamplingParams
from vllm.config import KVEventsConfig, KVTransferConfig
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.lora.request import LoRARequest
from vllm.platforms.cpu import CpuPlatform

from radixkv import Clear, Fetch, Load, Spill, Store
from vllm_ext.support import why_not_covered

KINDS = {kind.__name__.lower(): kind for kind in (Store, Load, Spill, Fetch, Clear)}
SETTLE_TIMEOUT_S = 30.0


class Host:
    """The engine and what was counted about it."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.prefilled_tokens = 0
        self.num_preemptions = 0
        self.finished: dict[str, dict[str, Any]] = {}
        self.adapters: dict[str, int] = {}
        self.first_adapter = 1
        self.replaced: set[str] = set()  # adapters that were read in place of others
        self.release: Callable[[], None] = lambda: None  # what `hold` holds back

    # --- its life

    def start(
        self,
        model: str,
        connector: dict[str, Any] | None = None,
        engine: dict[str, Any] | None = None,
        events_endpoint: str | None = None,
    ) -> None:
        """Replace the engine by another."""
        self.stop()
        _schedule_ahead((engine or {}).get("async_scheduling", False))
        transfer = None if connector is None else KVTransferConfig(**connector)
        told = None
        if events_endpoint is not None:
            told = KVEventsConfig(
                True, "zmq", f"{events_endpoint}-live", replay_endpoint=events_endpoint
            )
        defaults = {"dtype": "float32", "block_size": 32, "max_model_len": 1024, "max_num_seqs": 8}
        self.llm = LLM(
            model=model,
            skip_tokenizer_init=True,
            enforce_eager=True,
            seed=0,
            disable_log_stats=False,
            kv_transfer_config=transfer,
            kv_events_config=told,
            **(defaults | (engine or {})),
        )
        self.prefilled_tokens = self.num_preemptions = 0
        self.finished = {}
        if self._core is not None:
            self._count_prefills()

    def stop(self) -> None:
        """End the engine, as vLLM does."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()

    # --- requests

    def submit(
        self,
        request_id: str,
        prompt: list[int],
        max_tokens: int,
        cache_salt: str | None = None,
        kv_transfer_params: dict[str, Any] | None = None,
        weigh: bool = False,
        adapter: str | None = None,
        as_embeddings: str | None = None,
    ) -> None:
        """Queue a request; `step` computes.

        Args:
            request_id: Its name.
            prompt: Token ids.
            max_tokens: Length of the answer.
            cache_salt: vLLM's.
            kv_transfer_params: vLLM's.
            weigh: Whether to ask how sure each token of the answer is.
            adapter: Folder of a LoRA adapter to answer with.
            as_embeddings: Folder of the model, to send the tokens' embeddings instead of their ids.
        """
        wanted: dict[str, Any] = {"prompt_token_ids": prompt}
        if as_embeddings is not None:
            weights = safetensors.torch.load_file(f"{as_embeddings}/model.safetensors")
            wanted = {"prompt_embeds": weights["model.embed_tokens.weight"][prompt]}
        if cache_salt is not None:
            wanted["cache_salt"] = cache_salt
        extra = {"kv_transfer_params": kv_transfer_params} if kv_transfer_params else None
        params = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args=extra,
            logprobs=2 if weigh else None,
        )
        lora = None
        if adapter is not None:
            is_replaced = adapter in self.replaced
            lora = LoRARequest(adapter, self._number_of(adapter), adapter, load_inplace=is_replaced)
        self.llm.llm_engine.add_request(request_id, wanted, params, lora_request=lora)

    def step(self, num_steps: int = 1) -> int:
        """Run scheduler steps; gives the number of unfinished requests."""
        engine = self.llm.llm_engine
        for _ in range(num_steps):
            for output in engine.step():
                if output.finished:
                    self.finished[output.request_id] = _answer(output)
        return int(engine.get_num_unfinished_requests())

    def abort(self, request_id: str) -> None:
        """Give a request up, as a client that goes away."""
        self.llm.llm_engine.abort_request([request_id])

    def take_finished(self) -> dict[str, dict[str, Any]]:
        """The answers since the last call, by request."""
        finished, self.finished = self.finished, {}
        return finished

    def generate(
        self, prompts: list[list[int]], max_tokens: int, **wishes: Any
    ) -> list[dict[str, Any]]:
        """Answer prompts that are all queued at once."""
        ids = [f"{time.monotonic_ns()}-{number}" for number in range(len(prompts))]
        for request_id, prompt in zip(ids, prompts, strict=True):
            self.submit(request_id, prompt, max_tokens, **wishes)
        deadline = time.monotonic() + 120
        while self.step():
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests do not end: {self.state()}")
        finished = self.take_finished()
        return [finished[request_id] for request_id in ids]

    def settle(self) -> bool:
        """Step until no command is under way; False if time runs out first."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while self._connector.has_pending_push_work():
            if time.monotonic() > deadline:
                return False
            self.step()
        return True

    def reset_prefix_cache(
        self, reset_connector: bool = False, reset_running: bool = False
    ) -> bool:
        """Empty the device's cache, and the connector's if asked; requests that run start anew."""
        return bool(
            self.llm.reset_prefix_cache(
                reset_running_requests=reset_running, reset_connector=reset_connector
            )
        )

    def sleep(self, level: int, mode: str) -> None:
        """Stop scheduling; from level 1 on forget what the caches hold. A CPU's memory stays."""
        self.llm.sleep(level=level, mode=mode)

    def wake_up(self) -> None:
        self.llm.wake_up()

    def reload_weights(self, folder: str) -> None:
        """Take the weights of a folder into the model that runs."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def load_adapter(self, adapter: str) -> None:
        """Load a LoRA adapter before a request asks for it, as a server does at start."""
        self.llm.llm_engine.add_lora(LoRARequest(adapter, self._number_of(adapter), adapter))

    def replace_adapter(self, adapter: str, by: str, at_once: bool) -> None:
        """Have other weights read in place of an adapter's: at once, or by a request for them."""
        number = self.adapters[by] = self._number_of(adapter)
        self.replaced.add(by)
        if at_once:
            self.llm.llm_engine.add_lora(LoRARequest(adapter, number, by, load_inplace=True))

    def forget_adapters(self) -> None:
        """From now on adapters are loaded under other numbers, as after they were unloaded."""
        self.first_adapter += len(self.adapters)
        self.adapters.clear()
        self.replaced.clear()

    # --- its insides

    def state(self) -> dict[str, Any]:
        """What both sides have under way, and what they counted."""
        found: dict[str, Any] = {
            "prefilled_tokens": self.prefilled_tokens,
            "preemptions": self.num_preemptions,
        }
        if self._core is not None:
            pool = self._core.scheduler.kv_cache_manager.block_pool
            found["free_blocks"] = pool.get_num_free_blocks()
            found["num_blocks"] = pool.num_gpu_blocks
        side = getattr(self._connector, "scheduler", None)
        if side is not None:
            stats = side.planner.index.stats()
            side.planner.index.check_invariants()
            found |= {
                "counters": dataclasses.asdict(side.planner.counters),
                "levels": side.planner.levels(),
                "pending": len(side.planner.pending_ids),
                "issued": side.planner.num_issued,
                "requests": len(side._requests),
                "writing": stats.memory.writing_chunks + stats.disk.writing_chunks,
                "uses": stats.memory.uses + stats.disk.uses,
                "disk_chunks": stats.disk.ready_chunks,
                "memory_chunks": stats.memory.ready_chunks,
            }
        return found

    def kept_tokens(self, prompt: list[int]) -> dict[str, int]:
        """How much of a prompt a match finds, on both tiers and in memory alone."""
        side = self._connector.scheduler
        trees = side._namespaces.trees_of(SimpleNamespace())  # as of a request that names nothing
        found = [side.planner.match(array("I", prompt), tree) for tree in trees]
        return {
            "any": min(match.num_tokens for match in found),
            "memory": min(match.num_memory_tokens for match in found),
        }

    def trees_of_salts(self, salts: list[str]) -> dict[str, Any]:
        """The tree of a request with each salt, and how many are remembered afterwards."""
        namespaces = self._connector.scheduler._namespaces
        trees = [namespaces.trees_of(SimpleNamespace(cache_salt=salt)) for salt in salts]
        assert len(namespaces._trees) == len(namespaces._origins)
        return {"trees": [tree for (tree,) in trees], "remembered": len(namespaces._trees)}

    def resident_bytes(self) -> int:
        """Memory that this process occupies."""
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def metrics(self) -> dict[str, float]:
        """vLLM's own metrics by name and labels other than the engine's."""
        found = {}
        for metric in self.llm.get_metrics():
            labels = {k: v for k, v in metric.labels.items() if k not in ("engine", "model_name")}
            name = metric.name + "".join(f",{k}={v}" for k, v in sorted(labels.items()))
            if hasattr(metric, "value"):
                found[name] = metric.value
        return found

    def fault(self, kind: str, nth: int = 1, fail: bool = False, delay_s: float = 0.0) -> None:
        """Let a command of the worker's executor go wrong."""
        executor = get_kv_transfer_group().worker.executor
        executor.inject_fault(KINDS[kind], nth=nth, fail=fail, delay_s=delay_s)

    def hold(self, kind: str) -> None:
        """The next command of a kind goes on, but nobody hears of its end until `release`."""
        executor = get_kv_transfer_group().worker.executor
        self.release = interventions.hold_next(executor, KINDS[kind])

    def why_not_covered(self, part: str, setting: str, value: Any) -> str | None:
        """What radixkv would say of this engine if it had another setting."""
        scheduler = self._core.scheduler
        config = copy.copy(scheduler.vllm_config)
        changed = copy.copy(getattr(config, part))
        setattr(changed, setting, value)
        setattr(config, part, changed)
        return why_not_covered(config, scheduler.kv_cache_config)

    def why_not_covered_in(self, release: str) -> str | None:
        """What radixkv would say of this engine in another release of vLLM."""
        scheduler = self._core.scheduler
        return why_not_covered(scheduler.vllm_config, scheduler.kv_cache_config, release)

    def intervene(self, name: str) -> None:
        """Change the connector's insides for a test: a function of `interventions.py`.

        Without an engine it is about the engines that start from now on.
        """
        worker = _ours(get_kv_transfer_group()).worker if has_kv_transfer_group() else None
        scheduler = getattr(_ours(self._connector), "scheduler", None)
        getattr(interventions, name)(scheduler, worker)

    # --- the memory of several engines' GPUs; none of them runs

    def stored_forms(self, attention: str, model: str) -> dict[str, dict[str, Any]]:
        return stored_forms.stored_forms(attention, model)

    def handed_over(self, model: str, folder: str) -> dict[str, bool]:
        return stored_forms.handed_over(model, folder)

    def _number_of(self, adapter: str) -> int:
        return self.adapters.setdefault(adapter, self.first_adapter + len(self.adapters))

    @property
    def _core(self) -> Any:
        """The engine core, where it lives in this process."""
        if self.llm is None:
            return None
        return getattr(self.llm.llm_engine.engine_core, "engine_core", None)

    @property
    def _connector(self) -> Any:
        return None if self._core is None else self._core.scheduler.get_kv_connector()

    def _count_prefills(self) -> None:
        """Count prompt tokens where they are scheduled, not where anybody says so."""
        scheduler = self._core.scheduler
        schedule = scheduler.schedule

        def counting(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            for request_id, num_tokens in output.num_scheduled_tokens.items():
                request = scheduler.requests[request_id]
                first = request.num_computed_tokens - num_tokens  # it has just been advanced
                last = min(request.num_computed_tokens, request.num_prompt_tokens)
                self.prefilled_tokens += max(0, last - first)
            self.num_preemptions += len(output.preempted_req_ids or ())
            return output

        scheduler.schedule = counting


def _ours(connector: Any) -> Any:
    """radixkv's connector, where several are in one too."""
    several = getattr(connector, "_connectors", [connector])
    return next((one for one in several if type(one).__name__ == "RadixKVConnector"), connector)


def _schedule_ahead(is_wanted: bool) -> None:
    """Let the scheduler plan a step before it hears of the last one, as it does on a GPU.

    On the CPU vLLM turns this off whatever is asked for.
    """
    original = CpuPlatform.__dict__.get("original_check") or CpuPlatform.check_and_update_config

    def check(cls: type, vllm_config: Any) -> None:
        original(vllm_config)
        vllm_config.scheduler_config.async_scheduling = is_wanted

    CpuPlatform.original_check = staticmethod(original)
    CpuPlatform.check_and_update_config = classmethod(check)


def _answer(output: Any) -> dict[str, Any]:
    (choice,) = output.outputs
    return {
        "ids": list(choice.token_ids),
        "finish_reason": choice.finish_reason,
        "cached_tokens": output.num_cached_tokens,
        "prompt_tokens": len(output.prompt_token_ids),
        "margins": [_margin(found.values()) for found in choice.logprobs or ()],
    }


def _margin(found: Iterable[Any]) -> float:
    """How much likelier the likeliest token was than the next."""
    first, second, *_ = sorted((entry.logprob for entry in found), reverse=True)
    return float(first - second)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is not an answer
    host = Host()
    for line in sys.stdin:
        request = json.loads(line)
        call: Callable[..., Any] = getattr(host, request.pop("call"))
        try:
            answer = {"result": call(**request)}
        except Exception as error:
            import traceback

            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    host.stop()


if __name__ == "__main__":
    main()
