"""What the SGLang benchmarks share: a Llama's shape, and the caches that are compared.

Every engine runs in a process of its own, one after the other, on the same prompts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import progress

PAGE = 64
MEMORY_GIB = 32
MAX_BATCH = 32


@dataclass(frozen=True)
class Shape:
    """Of a Llama. The default is Llama-3.1-8B's."""

    hidden: int = 4096
    inner: int = 14336
    num_layers: int = 32
    head_dim: int = 128
    num_heads: int = 32
    num_kv_heads: int = 8
    vocabulary: int = 128256

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def config(self) -> dict[str, object]:
        """As config.json has it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


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
    """

    device_tokens: int
    has_disk: bool = True
    has_graphs: bool = False
    page: int = PAGE
    attention: str = "triton"
    ranks: int = 1
    shape: Shape = field(default_factory=Shape)


CONFIG = """
memory: {{size: {memory}GiB}}
prefetch: {{deadline: 60s}}
"""
DISK = "disk: {{path: {disk}, size: 40GiB}}\n"
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
Times = dict[str, list[float]]


def start(cache: str, folder: Path, setup: Setup, is_made_up: bool) -> Any:
    """An engine; `folder` takes its model and disk."""
    import sglang

    (folder / "config.json").write_text(json.dumps(setup.shape.config()))
    config = folder / "radixkv.yaml"
    text = CONFIG + DISK if setup.has_disk else CONFIG
    config.write_text(text.format(memory=MEMORY_GIB, disk=folder / "disk"))
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
        chunked_prefill_size=16384,
        max_total_tokens=setup.device_tokens,
        mem_fraction_static=0.5,
        log_level="warning",
        **(graphs if setup.has_graphs else {"disable_cuda_graph": True}),
        **CACHES[cache],
    )


def measure(cache: str) -> Times:
    """Runs the calling benchmark, with `--only cache` beside its own options, in a process of its
    own; gives its values."""
    progress(f"{cache}: starting SGLang")
    command = [sys.executable, *sys.argv, "--only", cache]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values: Times = json.loads(done.stdout.splitlines()[-1])
    return values


def run_alone(
    cache: str,
    setup: Setup,
    run: Callable[[Any], Times],
    write_weights: Callable[[Path], None] | None = None,
) -> None:
    """The other side of `measure`: starts the engine, runs, and prints the values.

    Without `write_weights` the weights are made up by SGLang: right for times, not for answers.
    """
    folder = Path(tempfile.mkdtemp(prefix="radixkv-bench-"))
    try:
        if write_weights is not None:
            write_weights(folder)
        engine = start(cache, folder, setup, write_weights is None)
        values = run(engine)
        engine.shutdown()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(values), flush=True)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
