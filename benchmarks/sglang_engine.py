"""What the SGLang benchmarks share: how engines start, and the caches that are compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine_process
from engine_process import Times
from llama import LLAMA_8B, Shape, write_config, write_weights

PAGE = 64
MEMORY_GIB = 32
MAX_BATCH = 32


@dataclass(frozen=True)
class Setup:
    """How an engine is started.

    Attributes:
        device_tokens: What the GPU keeps.
        has_disk: Whether radixkv has a disk tier; the peer has none.
        has_graphs: Whether decode steps run as CUDA graphs, or are launched kernel by kernel.
        page: Slots in a page of the engine.
        attention: Name of SGLang's attention backend.
        ranks: Tensor parallel ones, a GPU each.
        shape: The model's.
        memory_gib: What radixkv may pin of the host's memory.
    """

    device_tokens: int
    has_disk: bool = True
    has_graphs: bool = False
    page: int = PAGE
    attention: str = "triton"
    ranks: int = 1
    shape: Shape = LLAMA_8B
    memory_gib: int = MEMORY_GIB


CONFIG = """
memory: {{size: {memory}GiB}}
prefetch: {{deadline: 60s}}
"""
DISK = "disk: {{path: {disk}, size: 32GiB}}\n"
CACHES: dict[str, dict[str, Any]] = {
    "radixkv": {"radix_cache_backend": "radixkv"},
    "hicache": {
        "enable_hierarchical_cache": True,
        "hicache_size": 34,  # GB: as much
        "hicache_io_backend": "kernel",
        "hicache_mem_layout": "page_first",
        "hicache_write_policy": "write_through",
    },
    "plain": {},
}


def start(cache: str, folder: Path, setup: Setup, is_made_up: bool) -> Any:
    """An engine; `folder` takes its model and disk."""
    import sglang

    write_config(folder, setup.shape)
    config = folder / "radixkv.yaml"
    text = CONFIG + DISK if setup.has_disk else CONFIG
    config.write_text(text.format(memory=setup.memory_gib, disk=folder / "disk"))
    os.environ["RADIXKV_CONFIG"] = str(config)
    graphs = {"disable_prefill_cuda_graph": True, "cuda_graph_max_bs_decode": MAX_BATCH}
    return sglang.Engine(
        model_path=str(folder),
        load_format="dummy" if is_made_up else "auto",
        skip_tokenizer_init=True,
        attention_backend=setup.attention,
        sampling_backend="pytorch",
        grammar_backend="none",
        dtype="bfloat16",
        context_length=131072,
        page_size=setup.page,
        tp_size=setup.ranks,
        disable_custom_all_reduce=setup.ranks > 1,  # it wants GPUs that reach each other
        chunked_prefill_size=16384,
        max_total_tokens=setup.device_tokens,
        mem_fraction_static=0.8,  # several engines live at once, each with `device_tokens`
        log_level="warning",
        **(graphs if setup.has_graphs else {"disable_cuda_graph": True}),
        **CACHES[cache],
    )


def disk_folder() -> Path:
    """Where the engine of this process has radixkv's disk tier."""
    return Path(os.environ["RADIXKV_CONFIG"]).parent / "disk"


def run_alone(
    cache: str, setup: Setup, run: Callable[[Any], Times], *, with_weights: bool = False
) -> None:
    """Starts an engine in this process, runs, and prints the values.

    Without weights they are made up by SGLang: right for times, not for answers.
    """

    def run_in(folder: Path) -> Times:
        if with_weights:
            write_weights(folder, setup.shape)
        engine = start(cache, folder, setup, not with_weights)
        values = run(engine)
        engine.shutdown()
        return values

    engine_process.run_alone(run_in)
