"""SGLang's KV pool as radixkv sees it: the layout of a token, and where each layer's rows lie."""

from __future__ import annotations

from typing import Any

from radixkv import EngineMemory, KVLayout, UnsupportedError, describe_arrays


def describe_pool(pool: Any) -> tuple[KVLayout, EngineMemory]:
    """Layout and addresses of an `MHATokenToKVPool` or `MLATokenToKVPool`.

    Raises:
        UnsupportedError: K and V differ in size, or a token's row is not contiguous.
    """
    try:
        if hasattr(pool, "k_buffer"):
            pairs = zip(pool.k_buffer, pool.v_buffer, strict=True)
            return describe_arrays([buffer for pair in pairs for buffer in pair])
        return describe_arrays(list(pool.kv_buffer), num_kv=1)
    except ValueError as error:
        raise UnsupportedError(f"radixkv: this KV pool is not served: {error}") from error
