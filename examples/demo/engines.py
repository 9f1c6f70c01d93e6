"""The engines that the demo can serve with: how they start, how they are asked, what they tell."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import DemoError
from .model import Model
from .workload import Ids

_SOURCE = r'vllm:prompt_tokens_cached_by_source_total\{.*source="(\w+)"\}'
Event = Mapping[str, Any]
Metrics = Mapping[str, float]  # name with labels → value


@dataclass(frozen=True, slots=True)
class Room:
    """How much room there is, and where the disk tier lies."""

    device_tokens: int
    memory_bytes: int
    disk_bytes: int
    folder: Path

    @property
    def disk_folder(self) -> Path:
        return self.folder / "disk"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt, and where the KV of the prompt came from."""

    ids: Ids
    first_token_s: float
    prompt_tokens: int
    device_tokens: int
    memory_tokens: int
    disk_tokens: int

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.device_tokens - self.memory_tokens - self.disk_tokens


class Engine(Protocol):
    """One way to serve a model on this machine's CPU.

    Attributes:
        name: As people call it.
        all_it_takes: The flag that switches radixkv on.
        on_a_gpu: Lines for a shell, with which it serves on a GPU.
        metrics_path: Where its counters are read before and after a request; None where the answer
            itself says where its prompt came from.
    """

    name: str
    all_it_takes: str
    on_a_gpu: Sequence[str]
    metrics_path: str | None

    def command(self, model: Model, room: Room, port: int, *, with_radixkv: bool) -> list[str]:
        """The command line of the server."""

    def environment(self, room: Room) -> dict[str, str]:
        """What it needs beside it."""

    def request(self, model: Model, prompt: Ids, max_new_tokens: int) -> tuple[str, dict[str, Any]]:
        """Path and body of a request whose answer is streamed."""

    def read(
        self, events: Sequence[Event], prompt: Ids, first_token_s: float, grown: Metrics
    ) -> Answer:
        """The answer: all events of the stream, and by how much the counters have grown."""


class SGLang:
    """SGLang, started as its users do."""

    name = "SGLang"
    all_it_takes = "--radix-cache-backend radixkv"
    on_a_gpu = (
        "pip install '.[sglang]'",
        r'printf "memory: {size: 64GiB}\ndisk: {path: /mnt/nvme/radixkv, size: 1TiB}\n" > kv.yaml',
        "python -m sglang.launch_server --model-path MODEL"
        " --radix-cache-backend radixkv --radixkv-config kv.yaml",
    )
    metrics_path = None

    def command(self, model: Model, room: Room, port: int, *, with_radixkv: bool) -> list[str]:
        words = [
            *(sys.executable, "-P", "-m", "sglang.launch_server"),
            *("--model-path", str(model.folder), "--skip-tokenizer-init", "--dtype", "float32"),
            *("--host", "127.0.0.1", "--port", str(port), "--skip-server-warmup"),
            *("--device", "cpu", "--attention-backend", "torch_native"),
            *("--sampling-backend", "pytorch", "--grammar-backend", "none"),
            *("--disable-cuda-graph", "--random-seed", "1", "--max-running-requests", "2"),
            *("--max-total-tokens", str(room.device_tokens), "--chunked-prefill-size", "2048"),
        ]
        if with_radixkv:
            config = room.folder / "radixkv.yaml"
            config.write_text(json.dumps(radixkv_settings(room)))  # JSON is YAML
            words += ["--radix-cache-backend", "radixkv", "--radixkv-config", str(config)]
        return words

    def environment(self, room: Room) -> dict[str, str]:
        return {}

    def request(self, model: Model, prompt: Ids, max_new_tokens: int) -> tuple[str, dict[str, Any]]:
        sampling = {"temperature": 0, "max_new_tokens": max_new_tokens}
        return "/generate", {"input_ids": prompt, "sampling_params": sampling, "stream": True}

    def read(
        self, events: Sequence[Event], prompt: Ids, first_token_s: float, grown: Metrics
    ) -> Answer:
        meta, ids = events[-1].get("meta_info"), events[-1].get("output_ids")
        if not isinstance(meta, dict) or not isinstance(ids, list):
            raise DemoError(f"the server answered with {events[-1]}")
        details = meta.get("cached_tokens_details") or {}
        return Answer(
            ids=ids,
            first_token_s=first_token_s,
            prompt_tokens=meta["prompt_tokens"],
            device_tokens=details.get("device", 0),
            memory_tokens=details.get("host", 0),
            disk_tokens=details.get("storage", 0),
        )


class VLLM:
    """vLLM's API server. Its counters say where a prompt came from: requests come one by one."""

    name = "vLLM"
    all_it_takes = '--kv-transfer-config \'{"kv_connector": "RadixKVConnector", …}\''
    on_a_gpu = (
        "pip install '.[vllm]'",
        'vllm serve MODEL --kv-transfer-config \'{"kv_connector": "RadixKVConnector",'
        ' "kv_role": "kv_both", "kv_load_failure_policy": "recompute",'
        ' "kv_connector_extra_config": {"memory": {"size": "64GiB"},'
        ' "disk": {"path": "/mnt/nvme/radixkv", "size": "1TiB"}}}\'',
    )
    metrics_path = "/metrics"
    _block = 32  # the smallest that its CPU kernels take

    def command(self, model: Model, room: Room, port: int, *, with_radixkv: bool) -> list[str]:
        num_blocks = room.device_tokens // self._block + 1  # one it keeps for itself
        longest = min(model.context_length, (num_blocks - 1) * self._block)
        words = [
            *(sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model.folder), "--served-model-name", model.name),
            *("--host", "127.0.0.1", "--port", str(port), "--skip-tokenizer-init"),
            *("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "2"),
            *("--block-size", str(self._block), "--num-gpu-blocks-override", str(num_blocks)),
            *("--max-model-len", str(longest)),
        ]
        if with_radixkv:
            transfer = {
                "kv_connector": "RadixKVConnector",
                "kv_role": "kv_both",
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": radixkv_settings(room),
            }
            words += ["--kv-transfer-config", json.dumps(transfer)]
        return words

    def environment(self, room: Room) -> dict[str, str]:
        return {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    def request(self, model: Model, prompt: Ids, max_new_tokens: int) -> tuple[str, dict[str, Any]]:
        return "/v1/completions", {
            "model": model.name,
            "prompt": prompt,
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "return_token_ids": True,
            "stream": True,
        }

    def read(
        self, events: Sequence[Event], prompt: Ids, first_token_s: float, grown: Metrics
    ) -> Answer:
        choices = [choice for event in events for choice in event.get("choices", ())]
        if not choices:
            raise DemoError(f"the server answered with {list(events)}")
        found = ((re.fullmatch(_SOURCE, name), value) for name, value in grown.items())
        sources = {match[1]: int(value) for match, value in found if match}
        return Answer(
            ids=[token for choice in choices for token in choice.get("token_ids") or ()],
            first_token_s=first_token_s,
            prompt_tokens=len(prompt),
            device_tokens=sources.get("device", 0),
            memory_tokens=sources.get("host", 0),
            disk_tokens=sources.get("disk", 0),
        )


def radixkv_settings(room: Room) -> dict[str, Any]:
    """radixkv's own, the same for every engine."""
    return {
        "memory": {"size": f"{room.memory_bytes >> 20}MiB"},
        "disk": {"path": str(room.disk_folder), "size": f"{room.disk_bytes >> 20}MiB"},
    }


ENGINES: dict[str, Engine] = {"sglang": SGLang(), "vllm": VLLM()}
