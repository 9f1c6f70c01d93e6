"""Runs inside an engine's environment: moves pages of HiCache's host pools out and in again.

Prints a JSON object: for each kind of pool and layout, whether SGLang reads the same page at
another place afterwards, or what was said where a layout is not served; and what HiCache is told of
copies that take long.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

PAGE_SIZE, NUM_PAGES, NUM_LAYERS, HEADS, DIM = 16, 4, 3, 2, 8
TOKENS = PAGE_SIZE * NUM_PAGES
LAYOUTS = {
    "layer_first": (NUM_LAYERS, TOKENS),
    "page_first": (TOKENS, NUM_LAYERS),
    "page_first_direct": (NUM_PAGES, NUM_LAYERS, PAGE_SIZE),
    "page_head": (NUM_PAGES, HEADS, PAGE_SIZE, NUM_LAYERS),
}


def make_pool(kind: type, layout: str) -> Any:
    """As much of a pool as its pages need, with random contents."""
    pool = object.__new__(kind)
    row = (1, DIM) if kind is MLATokenToKVPoolHost else (HEADS, DIM)
    parts = () if kind is MLATokenToKVPoolHost else (2,)
    pool.layout = layout
    pool.page_size = PAGE_SIZE
    pool.layer_num = NUM_LAYERS
    pool.dcp_size = 1
    pool.kv_buffer = torch.rand(*parts, *LAYOUTS[layout], *row)
    return pool


def comes_back(pool: Any) -> bool | str:
    """Stores page 1, loads it as page 3; whether SGLang then reads there what it read here."""
    from radixkv import CacheConfig, KVCache, RadixKVError
    from sglang_ext.host_pool import describe_host_pool

    try:
        found = describe_host_pool(pool)
    except RadixKVError as error:
        return str(error)
    here, there = (torch.arange(page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in (1, 3))
    tokens = np.arange(PAGE_SIZE)
    before = pool.get_data_page(PAGE_SIZE).clone()
    config = CacheConfig(memory_size_bytes=8 << 20)
    cache = KVCache(found.layout, config, engine=found.memory)
    stored = cache.store(tokens, found.slots_of(here))
    assert stored is not None
    assert stored.wait()
    with cache.acquire(tokens) as handle:
        assert cache.load(handle, found.slots_of(there)).wait()
    cache.close()
    return bool(torch.equal(pool.get_data_page(3 * PAGE_SIZE), before))


def late_copies() -> list[bool]:
    """What HiCache hears of a page that is stored, and of one that is loaded, both slowly."""
    from radixkv import Load, Namespace, Store
    from sglang_ext import storage

    storage._WAIT_S = 0.01
    storage._namespace = lambda *_: Namespace("model", "layout")
    ranks = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "is_mla_model": False}
    pool = make_pool(MHATokenToKVPoolHost, "layer_first")
    before = pool.get_data_page(PAGE_SIZE).clone()
    with TemporaryDirectory() as folder:
        settings = Path(folder, "radixkv.yaml")
        settings.write_text(json.dumps({"memory": {"size": "8MiB"}}))
        os.environ["RADIXKV_CONFIG"] = str(settings)
        kept = storage.RadixKVStorage(SimpleNamespace(extra_config={"interface_v1": 1}, **ranks))
        kept.register_mem_pool_host(pool)
    executor = kept._kv.executor
    here, there = (torch.arange(page * PAGE_SIZE, (page + 1) * PAGE_SIZE) for page in (1, 3))

    executor.inject_fault(Store, fail=False, delay_s=0.2)
    heard = kept.batch_set_v1(["a page"], here)
    executor.inject_fault(Load, fail=False, delay_s=0.2)
    heard += kept.batch_get_v1(["a page"], there)
    is_there = bool(torch.equal(pool.get_data_page(3 * PAGE_SIZE), before))
    kept.close()
    return [*heard, is_there]


def main() -> None:
    kinds = (MHATokenToKVPoolHost, MLATokenToKVPoolHost)
    said: dict[str, Any] = {
        f"{kind.__name__} {layout}": comes_back(make_pool(kind, layout))
        for kind, layout in itertools.product(kinds, LAYOUTS)
    }
    print(json.dumps(said | {"late copies": late_copies()}))


if __name__ == "__main__":
    main()
