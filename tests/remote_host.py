"""A made-up engine with its cache, as a machine of its own but for the servers that it shares."""

from __future__ import annotations

import time

import numpy as np
from redis_server import remote_config
from test_cache import Engine, slots

from radixkv import KVCache

TIMEOUT_S = 30.0


class Host:
    """Shares with others what its servers have.

    Args:
        urls: The servers.
        engine: Its KV memory; by default the same in every host.
        settings: Of the cache, as a file has them.
    """

    def __init__(self, *urls: str, engine: Engine | None = None, **settings) -> None:
        self.engine = engine or Engine(seed=1)
        config = remote_config(*urls, **settings)
        self.cache = KVCache(self.engine.layout, config, engine=self.engine.memory)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.cache.close()

    @property
    def counters(self):
        return self.cache.planner.counters

    def wait_for(self, serves: bool = True, server: int = 0) -> str:
        """Until a server is there, or is known not to be; gives the reason."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            has, reason = self.cache.executor.remote_health()[server]
            if has == serves and reason != "not asked yet":
                return reason
            assert time.monotonic() < deadline, reason
            self.cache.wait_for_completion(0.01)

    def keep(self, tokens: np.ndarray, namespace: int | None = None) -> np.ndarray:
        """Store a prompt and write it through; gives its rows."""
        self.wait_for()
        where = slots(5, len(tokens))
        ticket = self.cache.store(tokens, where, namespace)
        assert ticket is not None
        assert ticket.wait()
        assert self.cache.settle()
        return self.engine.rows(where)

    def find(self, tokens: np.ndarray, namespace: int | None = None) -> np.ndarray:
        """The rows of what can be had of a prompt, from wherever."""
        self.engine.wipe()
        self.cache.fetch(tokens, namespace)
        with self.cache.acquire(tokens, namespace) as handle:
            where = slots(9, handle.num_memory_tokens)
            if len(where):
                assert self.cache.load(handle, where).wait()
        return self.engine.rows(where)
