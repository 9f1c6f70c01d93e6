"""radixkv's tiers as a storage backend of SGLang's HiCache (`dynamic`, interface v1).

For those who keep HiCache's host tier. HiCache names pages by a hash over all tokens up to their
end, and hands out no tokens. So each page is kept by itself, as a short sequence of its own whose
tokens are made of that hash: whole pages are found, not single tokens, and they leave one by one.

    --enable-hierarchical-cache --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "radixkv", "interface_v1": 1,
        "module_path": "sglang_ext.storage", "class_name": "RadixKVStorage"}'

HiCache calls from threads of its own and waits for the answer. The planner takes one call at a
time, under a lock; a thread ticks while anything is under way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sglang.srt.mem_cache import utils
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage

from radixkv import (
    CacheConfig,
    CompletionStatus,
    KVCache,
    KVLayout,
    Namespace,
    RankGroup,
    Ticket,
    TierError,
    UnsupportedError,
)
from sglang_ext import BEGAN_S
from sglang_ext.arguments import decided
from sglang_ext.host_pool import HostPoolMemory, describe_host_pool
from sglang_ext.identity import (
    adapter_identities,
    engine_namespace,
    new_weights,
    tensors_at_start,
)
from sglang_ext.support import check_page_size, check_storage

_WAIT_S = 60.0  # for what disk and servers have; a page that takes longer is a miss
_TICK_S = 0.05

PageTokens = NDArray[np.uint32]


class RadixKVStorage(HiCacheStorage):  # type: ignore[misc]
    """One rank's storage.

    Args:
        storage_config: SGLang's `HiCacheStorageConfig`.
        kwargs: Not used.

    Attributes:
        has_heard_of_weights: Whether it was told of weights after those that SGLang began with.

    Raises:
        UnsupportedError: Something of the configuration is not served; says what.
    """

    def __init__(self, storage_config: Any, kwargs: Any = None) -> None:
        check_storage(storage_config)
        self._ranks = storage_config
        self._changed = threading.Condition()
        self._is_open = False
        self._holds_old_weights = False
        self.has_heard_of_weights = False

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Open memory and disk for the pages of a host pool.

        Raises:
            UnsupportedError: The pool's kind, layout or page size is not served.
            TierError: A tier could not be opened.
        """
        super().register_mem_pool_host(mem_pool_host)
        config = _config_of_rank(self._ranks)
        self._page_size: int = mem_pool_host.page_size
        check_page_size(self._page_size, config)
        self._pool: HostPoolMemory = describe_host_pool(mem_pool_host)
        self._namespace = _namespace(self._ranks, self._pool.layout, config)
        self._tensors = tensors_at_start(_server_arguments(), BEGAN_S)
        self._kv = KVCache(
            self._pool.layout, config, namespace=self._namespace, engine=self._pool.memory
        )
        self._tree = self._kv.namespace_id(self._namespace)
        self._is_open = True
        self._ticker = threading.Thread(target=self._tick_on, name="radixkv-ticks", daemon=True)
        self._ticker.start()

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """SGLang has a pool beside the one for KV.

        Raises:
            UnsupportedError: Always, but for the pool that is registered already.
        """
        if host_pool is not self.mem_pool_host:
            raise UnsupportedError(
                f"radixkv: the host pool {host_pool_name} beside plain KV is not served as storage"
            )

    # --- what HiCache asks

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """How many of these pages, from the first on, are kept.

        What only a remote server has is brought into memory on the way: HiCache asks for what it is
        going to load.
        """
        pages = [self._tokens(key) for key in keys]
        with self._changed:
            num_kept = self._count_kept(pages[:1])  # of a prompt that is new, one page is asked for
            return num_kept and num_kept + self._count_kept(pages[1:])

    def exists(self, key: str) -> bool:
        """Whether a page is kept."""
        return self.batch_exists([key]) == 1

    def batch_set_v1(
        self, keys: Sequence[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Copy pages out of the host pool; whether each is kept.

        Args:
            keys: Names of the pages.
            host_indices: Where their tokens are in the pool. Shape: (len(keys) * page_size,).
            extra_info: Not used.
        """
        pages = self._pages(keys, host_indices)
        with self._changed:
            if self._holds_old_weights:
                return [False] * len(pages)
            tickets = [self._kv.store(tokens, slots, self._tree) for tokens, slots in pages]
            self._wait_for_copies(tickets)
            return [self._is_kept(tokens) for tokens, _ in pages]

    def batch_get_v1(
        self, keys: Sequence[str], host_indices: torch.Tensor, extra_info: Any = None
    ) -> list[bool]:
        """Copy pages into the host pool; whether each is there. Arguments as for `batch_set_v1`."""
        pages = self._pages(keys, host_indices)
        with self._changed:
            with self._in_memory([tokens for tokens, _ in pages]):
                tickets = [self._load(tokens, slots) for tokens, slots in pages]
            self._wait_for_copies(tickets)
            return [self._is_loaded(ticket) for ticket in tickets]

    def clear(self) -> None:
        """Forget all pages, those on disk too."""
        with self._changed:
            self._kv.clear(disk=True)
            self._changed.notify_all()

    def weights_changed(self, model_path: str | None) -> None:
        """From now on pages are another model's, though SGLang names them alike. Those of the old
        one that it still has are not taken: none are until it flushes.

        Args:
            model_path: Where the new weights came from, None if not from a folder, or not all.
        """
        with self._changed:
            nonce = uuid.uuid4().hex
            self._namespace = new_weights(self._namespace, model_path, nonce, self._tensors)
            self._tree = self._kv.namespace_id(self._namespace)
            self._holds_old_weights = self.has_heard_of_weights = True

    def flushed(self) -> None:
        """SGLang's tree is empty."""
        with self._changed:
            self._holds_old_weights = False

    def close(self) -> None:
        """Finish what is under way, within bounds, and give all back."""
        with self._changed:
            was_open, self._is_open = self._is_open, False
            self._changed.notify_all()
        if was_open:
            self._ticker.join()
            self._kv.close()

    # --- one page

    def _pages(
        self, keys: Sequence[str], host_indices: torch.Tensor
    ) -> list[tuple[PageTokens, NDArray[np.int64]]]:
        slots = self._pool.slots_of(host_indices).reshape(len(keys), self._page_size)
        return [(self._tokens(key), row) for key, row in zip(keys, slots, strict=True)]

    def _tokens(self, key: str) -> PageTokens:
        """The tokens that stand for a page: its name's 256 bits, repeated to the page's length."""
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), np.uint32)
        return np.resize(words, self._page_size)

    def _is_kept(self, tokens: PageTokens) -> bool:
        return self._kv.match(tokens, self._tree).num_tokens == self._page_size

    def _count_kept(self, pages: Sequence[PageTokens]) -> int:
        """How many, from the first on, are kept or come from a server."""
        with self._in_memory([tokens for tokens in pages if not self._is_kept(tokens)]):
            return len(list(takewhile(self._is_kept, pages)))

    @contextmanager
    def _in_memory(self, pages: Sequence[PageTokens]) -> Iterator[None]:
        """Has brought what disk and servers have of these pages, and pins it."""
        begun = [self._kv.prefetch(tokens, self._tree) for tokens in pages]
        fetches = [fetch for fetch in begun if fetch is not None]
        try:
            self._wait(lambda: all(fetch.done for fetch in fetches))
            yield
        finally:
            for fetch in fetches:
                self._kv.end_prefetch(fetch)

    def _load(self, tokens: PageTokens, slots: NDArray[np.int64]) -> Ticket | None:
        with self._kv.acquire(tokens, self._tree) as handle:
            if handle.num_memory_tokens < self._page_size:
                return None
            return self._kv.load(handle, slots)

    def _is_loaded(self, ticket: Ticket | None) -> bool:
        completion = None if ticket is None else ticket.completion
        return completion is not None and completion.status is CompletionStatus.OK

    # --- time goes on

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """With the lock held; it is free while this waits."""
        self._changed.notify_all()
        self._changed.wait_for(is_done, _WAIT_S)

    def _wait_for_copies(self, tickets: Sequence[Ticket | None]) -> None:
        """As `_wait`, but never given up: HiCache has others use its pages once it is answered."""
        copies = [ticket for ticket in tickets if ticket is not None]
        self._changed.notify_all()
        self._changed.wait_for(lambda: not self._is_open or all(ticket.done for ticket in copies))

    def _tick_on(self) -> None:
        """The ticking thread: hears what ended, plans what follows."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or self._kv.planner.pending_ids)
                if not self._is_open:
                    return
            self._kv.wait_for_completion(_TICK_S)
            with self._changed:
                self._kv.tick()
                self._changed.notify_all()

    # --- interface v0: one page, one tensor

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Not served: `check_storage` asks for interface v1.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("radixkv: only interface v1 is served")

    set = batch_get = batch_set = get


def _config_of_rank(ranks: Any) -> CacheConfig:
    """A share of the host's memory and disk, in a folder of its own.

    Raises:
        TierError: The folder for all ranks is not there and could not be made.
    """
    size = ranks.tp_size * ranks.pp_size
    config = CacheConfig.from_environment().for_rank(size)
    if config.disk_path is None or size == 1:
        return config
    try:
        config.disk_path.mkdir(exist_ok=True)
    except OSError as error:
        raise TierError("disk", "open", f"{error}; make the folder or change disk.path") from error
    folder = config.disk_path / f"tp{ranks.tp_rank}-pp{ranks.pp_rank}"
    return dataclasses.replace(config, disk_path=folder)


def _namespace(ranks: Any, layout: KVLayout, config: CacheConfig) -> Namespace:
    """The model, its adapters, weights and arguments, and which part of the KV this rank has.

    Extra keys and salts of requests are in the hashes that SGLang makes, from 0.5.20 on, and ids of
    LoRA adapters, which do not say what these are made of; before, SGLang names an adapter's pages
    like the plain model's.

    Raises:
        UnsupportedError: LoRA adapters are on, and SGLang leaves them out of its hashes.
    """
    arguments = _server_arguments()
    has_adapters = decided(arguments, "enable_lora")
    if has_adapters and not hasattr(utils, "storage_namespace_seed"):
        raise UnsupportedError(
            "radixkv: --enable-lora is not served by the storage backend before SGLang 0.5.20, "
            "which gives pages of all adapters the same name"
        )
    base = engine_namespace(arguments, layout, config, RankGroup(), BEGAN_S)
    rank = (ranks.tp_rank, ranks.tp_size, ranks.pp_rank, ranks.pp_size)
    references = (decided(arguments, "lora_paths") or ()) if has_adapters else ()
    adapters = sorted(adapter_identities(references, RankGroup(), BEGAN_S).items())
    return dataclasses.replace(base, request_key=json.dumps(["hicache", *rank, *adapters]))


def _server_arguments() -> Any:
    try:
        from sglang.srt.runtime_context import get_server_args  # from 0.5.20 on

        return get_server_args()
    except ImportError:
        from sglang.srt.server_args import get_global_server_args

        return get_global_server_args()
