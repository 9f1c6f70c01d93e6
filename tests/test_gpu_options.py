"""What radixkv says of a GPU's copies, and how they are chosen, as far as no GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from radixkv import CacheConfig, ConfigError, EngineMemory, Executor, KVLayout, UnsupportedError
from radixkv.gpu import describe_paths


def times(direction: str, num_bytes: int, kernel_us: float, staged_us: float) -> SimpleNamespace:
    return SimpleNamespace(
        direction=SimpleNamespace(name=direction), num_bytes=num_bytes, us=[kernel_us, staged_us]
    )


def test_the_measured_paths_read_as_a_line_for_each_direction():
    measured = [
        times("LOAD", 512 << 10, 24.4, 40.0),
        times("LOAD", 8 << 20, 216.0, 218.5),
        times("STORE", 8 << 20, 205.1, 218.0),
    ]

    assert describe_paths(measured) == [
        "to the GPU, µs by kernel/staged: 512KiB 24/40, 8MiB 216/218",
        "from the GPU, µs by kernel/staged: 8MiB 205/218",
    ]


def test_a_path_that_was_pinned_measures_nothing():
    assert describe_paths([]) == []


@pytest.mark.parametrize(
    "document", [{"gpu": {"copy": "fast"}}, {"gpu": {"blocks": 0}}, {"gpu": {"blocks": 33}}]
)
def test_a_setting_out_of_range_is_named(document):
    with pytest.raises(ConfigError, match=r"gpu\."):
        CacheConfig.from_mapping(document)


def test_the_path_can_be_pinned():
    config = CacheConfig.from_mapping({"gpu": {"copy": "kernel", "blocks": 2}})

    assert (config.gpu_copy, config.gpu_blocks) == ("kernel", 2)


def test_memory_that_is_not_pinned_is_kept_from_the_kernels(monkeypatch):
    """They would end the engine's CUDA context at the first copy."""
    monkeypatch.setattr("radixkv.gpu.load_module", SimpleNamespace)
    layout = KVLayout(num_layers=1, num_kv=2, row_bytes=64, dtype="bfloat16")
    engine = EngineMemory(
        addresses=np.array([4096, 8192], np.uint64),
        strides_bytes=np.array([64, 64], np.int64),
        num_slots=16,
        owner=None,
        device=0,
    )

    with (
        Executor(layout, memory_bytes=1 << 20, pin=False) as executor,
        pytest.raises(UnsupportedError, match="not pinned"),
    ):
        executor.attach(engine)
