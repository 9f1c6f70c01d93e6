"""SGLang's KV pool as radixkv sees it: the layout of a token, and where each layer's rows lie."""

from __future__ import annotations

from typing import Any

import numpy as np

from radixkv import EngineMemory, KVLayout, UnsupportedError


def describe_pool(pool: Any) -> tuple[KVLayout, EngineMemory]:
    """Layout and addresses of an `MHATokenToKVPool` or `MLATokenToKVPool`.

    Raises:
        UnsupportedError: K and V differ in size, or a token's row is not contiguous.
    """
    if hasattr(pool, "k_buffer"):
        buffers = [
            buffer for pair in zip(pool.k_buffer, pool.v_buffer, strict=True) for buffer in pair
        ]
        num_kv = 2
    else:
        buffers = list(pool.kv_buffer)
        num_kv = 1
    row_bytes = {buffer[0].nbytes for buffer in buffers}
    if len(row_bytes) != 1:
        raise UnsupportedError(f"radixkv: rows of {sorted(row_bytes)} bytes: K and V of one size are served")
    if not all(buffer[0].is_contiguous() for buffer in buffers):
        raise UnsupportedError("radixkv: the rows of a token are not contiguous in this KV pool")
    layout = KVLayout(
        num_layers=len(buffers) // num_kv,
        num_kv=num_kv,
        row_bytes=row_bytes.pop(),
        dtype=str(pool.dtype).removeprefix("torch."),
    )
    memory = EngineMemory(
        addresses=np.array([buffer.data_ptr() for buffer in buffers], np.uint64),
        strides_bytes=np.array(
            [buffer.stride(0) * buffer.element_size() for buffer in buffers], np.int64
        ),
        num_slots=min(buffer.shape[0] for buffer in buffers),
        owner=pool,
    )
    return layout, memory
