"""Follows what a vLLM publishes about its KV: which tokens each medium holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq
from conversations import Ids

TIMEOUT_S = 20.0
INTERVAL_S = 0.05
MEDIA = ("CPU", "STORAGE")


class EventSubscriber:
    """Knows what every event so far has said of memory and disk.

    Has them replayed: what vLLM publishes before it knows of a subscription reaches nobody.

    Args:
        endpoint: Where vLLM replays what it has published.
    """

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._next_batch = 0
        self._blocks: dict[tuple[str, int], tuple[int | None, list[Any] | None, Ids]] = {}

    def await_that(self, is_so: Callable[[], bool]) -> bool:
        """Hear events until something holds; False where it never does."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(INTERVAL_S)
            self._catch_up(deadline)
        return True

    def prompts(self, *media: str, extra_keys: list[Any] | None = None) -> set[tuple[int, ...]]:
        """Every prefix whose blocks are all held on one of the media, of those who share it."""
        found: dict[int | None, Ids] = {None: []}
        held = [key for key in self._blocks if key[0] in media]
        for _ in range(len(held)):  # a block may have been told of before the one that it continues
            for key in held:
                parent, extra, tokens = self._blocks[key]
                if parent in found and (parent is not None or extra == extra_keys):
                    found[key[1]] = found[parent] + tokens
        return {tuple(tokens) for parent, tokens in found.items() if parent is not None}

    def _catch_up(self, deadline: float) -> None:
        self._socket.send_multipart([b"", self._next_batch.to_bytes(8, "big")])
        while self._socket.poll(max(0, round((deadline - time.monotonic()) * 1e3))):
            *_, number, batch = self._socket.recv_multipart()
            if not batch:  # the end of the replay
                return
            assert int.from_bytes(number, "big") == self._next_batch
            self._next_batch += 1
            self._hear(msgpack.unpackb(batch)[1])

    def _hear(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event.get("medium") not in MEDIA:
                continue
            if event["type"] == "BlockStored":
                self._add(event)
            else:
                for key in event["block_hashes"]:
                    del self._blocks[event["medium"], key]

    def _add(self, event: dict[str, Any]) -> None:
        parent, size = event["parent_block_hash"], event["block_size"]
        for number, key in enumerate(event["block_hashes"]):
            tokens = event["token_ids"][number * size :][:size]
            extra = event["extra_keys"][number]
            assert len(tokens) == size
            assert (event["medium"], key) not in self._blocks
            self._blocks[event["medium"], key] = (parent, extra, tokens)
            parent = key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)
