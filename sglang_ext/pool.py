"""SGLang's KV pool as radixkv sees it: the layout of a token, and where each layer's rows lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radixkv import (
    DeviceSlots,
    EngineMemory,
    EngineSlots,
    KVLayout,
    UnsupportedError,
    describe_arrays,
)


def describe_pool(pool: Any, tp_worker: Any) -> tuple[KVLayout, EngineMemory]:
    """Layout and addresses of an `MHATokenToKVPool` or `MLATokenToKVPool`.

    Args:
        pool: The KV pool.
        tp_worker: SGLang's worker, whose model runner has the stream that computes.

    Raises:
        UnsupportedError: K and V differ in size, or a token's row is not contiguous.
    """
    try:
        if hasattr(pool, "k_buffer"):
            pairs = zip(pool.k_buffer, pool.v_buffer, strict=True)
            layout, memory = describe_arrays([buffer for pair in pairs for buffer in pair])
        else:
            layout, memory = describe_arrays(list(pool.kv_buffer), num_kv=1)
    except ValueError as error:
        raise UnsupportedError(f"radixkv: this KV pool is not served: {error}") from error
    if memory.device is not None:
        stream = tp_worker.model_runner.forward_stream.cuda_stream
        memory = dataclasses.replace(memory, forward_stream=stream)
    return layout, memory


def stream_reader(pool: Any) -> Callable[[], int]:
    """A function that gives the stream on which the calling thread computes now; 0 on a CPU."""
    if torch.device(pool.device).type != "cuda":
        return lambda: 0
    return lambda: int(torch.cuda.current_stream().cuda_stream)


def engine_slots(slots: torch.Tensor) -> EngineSlots:
    """Slots as a command takes them. Those on a GPU stay there: to read them is to wait for it."""
    slots = slots.to(dtype=torch.int64).contiguous()
    if slots.is_cuda:
        stream = torch.cuda.current_stream(slots.device).cuda_stream
        return DeviceSlots(slots.data_ptr(), len(slots), stream, owner=slots)
    array: NDArray[np.int64] = slots.numpy()
    return array
