"""The API server as users start it: one flag, and after a restart the disk answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import vllm_serve
from conversations import Workload
from sglang_harness import engine_python
from vllm_harness import ENVIRONMENT, VERSION

FLAGS = "--skip-tokenizer-init --enforce-eager --dtype float32 --block-size 32 --max-model-len 1024"


def test_a_server_finds_after_its_restart_what_it_had(
    models: dict[str, Path], workload_for: Callable[..., Workload], tmp_path: Path
) -> None:
    workload = workload_for("mha", "float32")
    model = str(models["mha"])
    kept = len(workload.first[2]) // 32 * 32

    def serving() -> AbstractContextManager[str]:
        return vllm_serve.serving(
            model,
            vllm_serve.transfer_config(str(tmp_path / "kv"), size="64MiB", memory="64MiB"),
            *FLAGS.split(),
            python=str(engine_python(VERSION)),
            environment=ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": "1"},
            log=str(tmp_path / "log"),
        )

    with serving() as address:
        ids = vllm_serve.complete(address, model, workload.first[2])
        assert ids == workload.first_answers[2]
        assert vllm_serve.await_metric(address, "vllm:radixkv_spilled_total", kept)

    with serving() as address:
        ids = vllm_serve.complete(address, model, workload.second[2])
        assert ids == workload.second_answers[2]
        assert vllm_serve.metric(address, "vllm:radixkv_loaded_total") >= kept
        assert vllm_serve.metric(address, "vllm:radixkv_fetched_total") >= kept
        assert vllm_serve.metric(address, "vllm:radixkv_loads_failed_total") == 0
