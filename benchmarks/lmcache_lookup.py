"""LMCache's lookup of a prompt, as its vLLM connector does it: hash every chunk, look up each.

Its chunks have 256 tokens. Only the index is exercised, so a token's KV is 4 bytes, and prompts
that are not asked for share one object.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_importable() -> bool:
    return importlib.util.find_spec("lmcache") is not None


class LMCacheLookup:
    """LMCache 0.5's token database and memory backend, holding `asked` and `others`."""

    def __init__(
        self, asked: Iterable[NDArray[np.uint32]], others: Iterable[NDArray[np.uint32]]
    ) -> None:
        import torch
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.memory_allocators.ad_hoc_memory_allocator import AdHocMemoryAllocator
        from lmcache.v1.memory_management import MemoryFormat
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.pin_monitor import PinMonitor
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
        from lmcache.v1.token_database import ChunkedTokenDatabase

        config = LMCacheEngineConfig.from_defaults(chunk_size=256)
        metadata = LMCacheMetadata("model", 1, 1, 0, 0, torch.bfloat16, (1, 2, 256, 1, 1))
        allocator = AdHocMemoryAllocator(device="cpu")
        self._database = ChunkedTokenDatabase(config, metadata)
        self._backend = LocalCPUBackend(config, metadata, "cpu", memory_allocator=allocator)
        PinMonitor.GetOrCreate(config)

        def allocate() -> Any:
            shape = torch.Size((2, 1, 256, 1))
            return allocator.allocate(shape, torch.bfloat16, MemoryFormat.KV_2LTD)

        for prompt in asked:
            for key in self._keys(prompt.tolist()):
                self._backend.submit_put_task(key, allocate())
        shared = allocate()
        for prompt in others:
            for key in self._keys(prompt.tolist()):
                self._backend.submit_put_task(key, shared)

    def lookup(self, tokens: list[int]) -> int:
        """Tokens of the prompt that are kept."""
        return self._backend.batched_contains(self._keys(tokens)) * 256

    def lookup_and_pin(self, tokens: list[int]) -> int:
        """The same with a pin on every chunk, which is taken off again."""
        keys = self._keys(tokens)
        num_found = self._backend.batched_contains(keys, pin=True)
        self._backend.touch_cache()
        for key in keys[:num_found]:
            self._backend.unpin(key)
        return num_found * 256

    def _keys(self, tokens: list[int]) -> list[Any]:
        return [key for _, _, key in self._database.process_tokens(tokens)]
