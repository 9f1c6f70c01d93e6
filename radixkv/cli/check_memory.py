"""Checks of the memory tier: room, huge pages, the CUDA driver that pins it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np

from radixkv.cli.checks import Check, Status, fail, ok, warn
from radixkv.config import CacheConfig
from radixkv.errors import UnsupportedError
from radixkv.gpu import describe_paths, load_module
from radixkv.host_memory import available_memory_bytes
from radixkv.units import approximate_size

# Of an 8B model: 32 layers, K and V of 8 heads of 128 two-byte elements.
_ROW_BYTES = 2048
_PLACES = np.full(64, 4096, np.uint64)
_STRIDES = np.full(64, _ROW_BYTES, np.int64)

HUGEPAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def check_memory(config: CacheConfig) -> list[Check]:
    """Everything that the memory tier rests on."""
    return [_check_room(config), _check_hugepages(config), *_check_gpu()]


def _check_room(config: CacheConfig) -> Check:
    wanted, available = config.memory_size_bytes, available_memory_bytes()
    finding = f"{approximate_size(wanted)} wanted, {approximate_size(available)} available"
    if wanted > available:
        return fail("memory", finding, "make memory.size smaller, or free memory")
    return ok("memory", finding)


def _check_hugepages(config: CacheConfig) -> Check:
    if config.memory_hugepages == "never":
        return ok("huge pages", "not asked for (memory.hugepages: never)")
    try:
        mode = re.search(r"\[(\w+)\]", HUGEPAGES.read_text())
    except OSError:
        mode = None
    if mode is None or mode[1] == "never":
        return warn("huge pages", "the kernel gives none", f"as root: echo madvise > {HUGEPAGES}")
    return ok("huge pages", mode[1])


def _check_gpu() -> list[Check]:
    driver = _check_driver()
    return [driver, _check_gpu_copies()] if driver.status is Status.OK else [driver]


def _check_driver() -> Check:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return warn(
            "CUDA driver",
            "none found: only engines on the CPU can be served",
            "on a GPU host install NVIDIA's driver; in a container start it with --gpus all",
        )
    code = driver.cuInit(0)
    if code != 0:
        return fail("CUDA driver", f"cuInit failed with error {code}", "see what nvidia-smi says")
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGetCount(ctypes.byref(count))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return ok("CUDA driver", f"for CUDA {cuda}, {count.value} device(s)")


def _check_gpu_copies() -> Check:
    """Whether radixkv has its CUDA part, and how fast that is on this GPU."""
    name = "GPU copies"
    try:
        cuda = load_module()
    except UnsupportedError as error:
        return fail(name, str(error), "put nvcc on the PATH and install radixkv again")
    layout = cuda.EngineLayout(_PLACES, _STRIDES, num_slots=1, row_bytes=_ROW_BYTES)
    transfer = cuda.CudaTransfer(layout)  # measures on memory of its own
    return ok(name, "; ".join(describe_paths(transfer.path_times)))
