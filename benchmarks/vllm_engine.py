"""What the vLLM benchmarks share: how engines start and are asked, and the connectors compared."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_process
from engine_process import Times
from harness import progress
from llama import LLAMA_8B, Shape, write_config, write_weights

BLOCK = 16
MEMORY_GIB = 32
_SETTLE_TIMEOUT_S = 120.0  # a slow disk may have gigabytes to take
_STEPS_AHEAD = 4  # more than vLLM schedules ahead
_OURS: dict[str, Any] = {"prefetch": {"deadline": "60s"}}
CONNECTORS: dict[str, dict[str, Any] | None] = {
    "radixkv": {"kv_connector": "RadixKVConnector", "kv_connector_extra_config": _OURS},
    "radixkv-async": {
        "kv_connector": "RadixKVConnector",
        "kv_connector_extra_config": _OURS | {"loads": "async"},
    },
    "radixkv-sync": {
        "kv_connector": "RadixKVConnector",
        "kv_connector_extra_config": _OURS | {"loads": "sync"},
    },
    "native": {
        "kv_connector": "OffloadingConnector",
        "kv_connector_extra_config": {"cpu_bytes_to_use": MEMORY_GIB << 30},
    },
    "none": None,
}


@dataclass(frozen=True)
class Setup:
    """How an engine is started.

    Attributes:
        device_tokens: What the GPU keeps.
        shape: The model's.
        has_weights: Whether weights are written; else vLLM makes them up, which is right for times,
            not for answers.
        has_disk: Whether radixkv has a disk tier; the peer has none.
        has_graphs: Whether decode steps run as CUDA graphs, or are launched kernel by kernel.
        max_batch: Requests that run at once.
        memory_gib: What radixkv may pin of the host's memory.
    """

    device_tokens: int
    shape: Shape = LLAMA_8B
    has_weights: bool = False
    has_disk: bool = True
    has_graphs: bool = False
    max_batch: int = 128
    memory_gib: int = MEMORY_GIB

    def options(self) -> dict[str, object]:
        """As vLLM names them."""
        graphs = {
            "mode": 0,  # nothing is compiled
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": [1, 8, 16, 32, 64, 128],
        }
        return {
            "load_format": "auto" if self.has_weights else "dummy",
            "skip_tokenizer_init": True,
            "enforce_eager": not self.has_graphs,
            "compilation_config": graphs if self.has_graphs else {},
            "dtype": "bfloat16",
            "block_size": BLOCK,
            "max_model_len": min(131072, self.device_tokens - BLOCK),  # vLLM keeps a block
            "max_num_seqs": self.max_batch,
            "max_logprobs": 50,
            "gpu_memory_utilization": 0.3,  # several engines live at once
            "num_gpu_blocks_override": self.device_tokens // BLOCK,
            "max_num_batched_tokens": 16384,
            "enable_prefix_caching": True,
        }


class Engine:
    """vLLM in this process, so that a step is a call and its insides can be reached.

    Args:
        connector: One of `CONNECTORS`.
        folder: Takes the model and radixkv's disk.
        setup: How it starts.
    """

    def __init__(self, connector: str, folder: Path, setup: Setup) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM
        from vllm.config import KVTransferConfig

        self.disk_folder = folder / "disk"
        write_config(folder, setup.shape)
        if setup.has_weights:
            write_weights(folder, setup.shape)
        transfer = CONNECTORS[connector]
        if transfer is not None:
            extra = dict(transfer["kv_connector_extra_config"])
            if transfer["kv_connector"] == "RadixKVConnector":
                extra["memory"] = {"size": f"{setup.memory_gib}GiB"}
                if setup.has_disk:
                    extra["disk"] = {"path": str(self.disk_folder), "size": "32GiB"}
            changes = {"kv_role": "kv_both", "kv_connector_extra_config": extra}
            transfer = KVTransferConfig(**(transfer | changes))
        self._llm = LLM(model=str(folder), kv_transfer_config=transfer, **setup.options())
        self._engine = self._llm.llm_engine
        self._num_requests = 0

    # --- requests

    def submit(self, prompt: list[int], max_tokens: int, **sampling: object) -> str:
        """Queues a request; gives its id."""
        from vllm import SamplingParams

        self._num_requests += 1
        request_id = str(self._num_requests)
        params = SamplingParams(
            temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, **sampling
        )
        self._engine.add_request(request_id, {"prompt_token_ids": prompt}, params)
        return request_id

    def step(self) -> Iterable[Any]:
        """One step of vLLM; gives its `RequestOutput`s."""
        outputs: Iterable[Any] = self._engine.step()
        return outputs

    @property
    def num_unfinished(self) -> int:
        return int(self._engine.get_num_unfinished_requests())

    def ask(self, prompt: list[int], max_tokens: int = 1, **sampling: object) -> Any:
        """Answers one prompt alone; gives vLLM's last output."""
        self.submit(prompt, max_tokens, **sampling)
        last = None
        while self.num_unfinished:
            for output in self.step():
                last = output
        return last

    def abort(self, *request_ids: str) -> None:
        """Gives requests up, and steps until vLLM has taken note of what runs."""
        self._engine.abort_request(list(request_ids))
        self._end_steps()

    def _empty(self, *, reset_connector: bool) -> None:
        self._end_steps()
        if not self._llm.reset_prefix_cache(reset_connector=reset_connector):
            raise RuntimeError("the device's cache could not be emptied: requests run")

    def _end_steps(self) -> None:
        """Ends what vLLM has begun ahead: it frees the blocks of ended requests only then."""
        for _ in range(_STEPS_AHEAD):
            self.step()

    # --- what the caches have

    def forget_on_device(self) -> None:
        """Empties the device's cache; what the connector keeps stays."""
        self._empty(reset_connector=False)

    def forget_everything(self) -> None:
        """Empties the device's cache and every tier."""
        self.settle()
        self._empty(reset_connector=True)
        self.settle()

    def forget_in_memory(self) -> None:
        """Empties radixkv's memory tier: only the disk is left."""
        self.forget_on_device()
        self._planner.clear(disk=False)
        self.settle()

    def settle(self) -> None:
        """Lets what is on its way arrive: stores may wait for another step to be begun."""
        self.ask([1] * (BLOCK // 2))
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        while self.has_work_left() and time.monotonic() < deadline:
            self.step()
        if self.has_work_left():
            progress(f"  not settled after {_SETTLE_TIMEOUT_S:.0f} s: {self.describe()}")
        time.sleep(1)  # of other connectors it is not known when they are done
        self.ask([2] * (BLOCK // 2))

    def has_work_left(self) -> bool:
        """Whether radixkv has commands under way; False with another connector."""
        return bool(getattr(getattr(self.connector, "scheduler", None), "is_busy", False))

    @property
    def fetched_tokens(self) -> int:
        """Tokens that radixkv's disk brought so far."""
        return int(self._planner.counters.fetched)

    def describe(self) -> str:
        """What radixkv planned, did and measured so far, but what is 0; for a person to read."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        planner = self._planner
        facts: dict[str, object] = dataclasses.asdict(planner.counters) | planner.levels()
        facts["commands_under_way"] = len(planner.pending_ids)
        kinds = dataclasses.asdict(get_kv_transfer_group().worker.executor.stats())
        for kind, stats in kinds.items():
            facts |= {f"{kind}.{name}": value for name, value in stats.items()}
        return ", ".join(f"{name} {_short(value)}" for name, value in facts.items() if value)

    @property
    def scheduler(self) -> Any:
        """vLLM's scheduler."""
        return self._engine.engine_core.engine_core.scheduler

    @property
    def connector(self) -> Any:
        """The connector in the scheduler; None without one."""
        return self.scheduler.get_kv_connector()

    @property
    def _planner(self) -> Any:
        return self.connector.scheduler.planner

    def close(self) -> None:
        self._engine.engine_core.shutdown()


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_alone(connector: str, setup: Setup, run: Callable[[Engine], Times]) -> None:
    """Starts an engine in this process, runs, and prints the values."""

    def run_in(folder: Path) -> Times:
        engine = Engine(connector, folder, setup)
        values = run(engine)
        engine.close()
        return values

    engine_process.run_alone(run_in)
