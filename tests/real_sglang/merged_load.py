"""Runs inside an engine's environment: one request computes what another one loads, in vain.

    A computes [shared, its own], B loads `shared` meanwhile, which fails. SGLang's tree has B's
    slots when A's prefill is over, and merges A with them. Nobody has heard of the failure yet: on
    a GPU, or with several ranks, a forward does not wait for that.

SGLang's tree and pools are real, the scheduler's calls are made here. Prints, for an A that goes on
and for one that ends with its prefill, how many of its tokens memory holds, and how many of those
are right.
"""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import (
    EvictParams,
    InitLoadBackParams,
    MatchPrefixParams,
)
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixKey

CHUNK = 16
SHARED = list(range(1000, 1040))  # ends inside a chunk
OWN = list(range(2000, 2010))


class Request:
    """What the cache looks at in one of SGLang's requests."""

    extra_key = cache_salt = lora_id = None
    priority = 0
    cache_protected_len = 0

    def __init__(self, rid: str, tokens: list[int], pool_index: int) -> None:
        self.rid = rid
        self.origin_input_ids = self.full_untruncated_fill_ids = array("q", tokens)
        self.output_ids = array("q")
        self.req_pool_idx = pool_index
        self.prefix_indices = torch.empty(0, dtype=torch.int64)
        self.last_node: Any = None
        self.to_finish: Any = None

    def get_fill_ids(self) -> array[int]:
        return self.origin_input_ids

    def finished(self) -> bool:
        return False


class Scheduler:
    """The calls that SGLang's scheduler makes, one at a time."""

    def __init__(self, model: Path) -> None:
        from sglang_ext.radix_cache import RadixKVCache

        self.pool = MHATokenToKVPool(
            256, 1, torch.float32, 1, 8, 2, "cpu", enable_memory_saver=False
        )
        self.requests = ReqToTokenPool(8, 128, "cpu", enable_memory_saver=False)
        self.allocator = TokenToKVPoolAllocator(256, torch.float32, "cpu", self.pool, False)
        params = CacheInitParams(False, self.requests, self.allocator, page_size=1)
        worker = SimpleNamespace(
            model_runner=SimpleNamespace(),
            register_hicache_layer_transfer_counter=lambda counter: None,
        )
        arguments = {"device": "cpu", "disable_overlap_schedule": False, "load_format": "auto"}
        self.cache = RadixKVCache(
            SimpleNamespace(
                params=params,
                tp_worker=worker,
                server_args=SimpleNamespace(model_path=str(model), **arguments),
                is_hybrid_swa=False,
                is_hybrid_ssm=False,
            )
        )

    def match(self, req: Request) -> Any:
        key = RadixKey(req.origin_input_ids)
        found = self.cache.match_prefix(MatchPrefixParams(key=key, req=req))
        req.prefix_indices, req.last_node = found.device_indices, found.last_device_node
        return found

    def compute(self, req: Request) -> None:
        """A forward over the whole prompt: every row says its token."""
        tokens = torch.tensor(req.origin_input_ids)
        slots = self.allocator.alloc(len(tokens))
        for buffer in (*self.pool.k_buffer, *self.pool.v_buffer):
            buffer[slots] = tokens.float()[:, None, None]
        self.requests.req_to_token[req.req_pool_idx, : len(tokens)] = slots.int()
        self.cache.inc_lock_ref(req.last_node)

    def settle(self) -> None:
        while self.cache._kv.planner.pending_ids:
            self.cache._kv.wait_for_completion(0.05)
            self.cache.check_hicache_events()


def merge(sglang: Scheduler, *, ends_with_its_prefill: bool) -> list[int]:
    """A's tokens in memory, and how many of them are right."""
    from radixkv import Load

    cache, kv = sglang.cache, sglang.cache._kv
    before = Request("before", SHARED, 1)
    sglang.match(before)
    sglang.compute(before)
    cache.cache_finished_req(before, kv_len_to_handle=len(SHARED) + 1)
    sglang.settle()
    cache.evict(EvictParams(num_tokens=len(SHARED)))

    a, b = Request("a", SHARED + OWN, 2), Request("b", [*SHARED, 7, 8, 9], 3)
    sglang.match(a)  # it is admitted without what memory has
    found = sglang.match(b)
    kv.executor.inject_fault(Load, fail=True)
    cache.init_load_back(InitLoadBackParams(found.last_device_node, found.host_hit_length, req=b))
    sglang.compute(a)
    if ends_with_its_prefill:
        cache.cache_finished_req(a, kv_len_to_handle=len(SHARED + OWN))
    else:
        cache.cache_unfinished_req(a)
    sglang.settle()

    match = kv.match(a.origin_input_ids, kv.namespace_id(cache._namespace))
    return [match.num_memory_tokens, count_right(kv, match.slices(), a.origin_input_ids)]


def main() -> None:
    kept = []
    with TemporaryDirectory() as folder:
        config = Path(folder) / "radixkv.yaml"
        config.write_text(f"chunk_tokens: {CHUNK}\nmemory: {{size: 8MiB}}\n")
        (Path(folder) / "config.json").write_text("{}")
        os.environ["RADIXKV_CONFIG"] = str(config)
        for ends_with_its_prefill in (False, True):
            sglang = Scheduler(Path(folder))
            kept.append(merge(sglang, ends_with_its_prefill=ends_with_its_prefill))
            sglang.cache._kv.close()
    print(json.dumps(kept))


def count_right(kv: Any, chunks: Any, tokens: array[int]) -> int:
    right = 0
    for chunk in chunks:
        data = kv.executor.read_memory(
            int(chunk["memory_offset"]), int(chunk["num_tokens"]) * kv.layout.token_bytes
        )
        rows = np.frombuffer(data, np.float32).reshape(kv.layout.num_rows, chunk["num_tokens"], -1)
        first = int(chunk["span"]) * CHUNK
        wanted = np.array(tokens[first : first + int(chunk["count"])])
        right += int((rows[:, : len(wanted)] == wanted[:, None]).all(axis=(0, 2)).sum())
    return right


if __name__ == "__main__":
    main()
