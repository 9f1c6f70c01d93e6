"""EventPublisher: an index's events over ZeroMQ, in the form in which vLLM publishes its own.

So what follows vLLM's blocks, a router such as Dynamo's say, follows a replica's chunks as well: a
chunk is a block of `chunk_tokens` tokens on the medium "CPU" or "DISK". Tails are left out, since
a block is full by definition.

A message has three parts: the topic, the batch's number (8 bytes, big-endian), and in msgpack

    [time, [["BlockStored", keys, parent key, tokens, block size, lora id, medium, lora name],
            ["BlockRemoved", keys, medium], …], rank]

Needs pyzmq and msgpack: `pip install pyzmq msgpack`.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgpack
import zmq

from radixkv.events import ChunkStored, Event, Tier, take_events
from radixkv.index import RadixIndex

MEDIA: dict[Tier, str] = {"memory": "CPU", "disk": "DISK"}


class EventPublisher:
    """Publishes what one index has told since the last time. One thread.

    Args:
        index: Records events from now on, if it did not before.
        endpoint: Where subscribers connect to, such as "tcp://*:5557".
        topic: First part of every message.
        rank: Which of several replicas this is.
        most_events: Events that may wait between two calls of `publish`; more are lost.
        context: Of ZeroMQ; the process's own by default.
    """

    def __init__(
        self,
        index: RadixIndex,
        endpoint: str,
        *,
        topic: str = "",
        rank: int = 0,
        most_events: int = 1 << 20,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self._index = index
        self._topic = topic.encode()
        self._rank = rank
        self._num_batches = 0
        self._socket = (context or zmq.Context.instance()).socket(zmq.PUB)
        self._socket.bind(endpoint)
        index.record_events(most_events)

    def publish(self, time_s: float) -> int:
        """Send what happened since the last call as one batch; nothing if nothing happened.

        Args:
            time_s: When, in seconds since 1970; for subscribers to read.

        Returns:
            The number of events that the batch has.
        """
        events = as_blocks(take_events(self._index), self._index.chunk_tokens)
        if not events:
            return 0
        number = self._num_batches.to_bytes(8, "big")
        batch = msgpack.packb([time_s, events, self._rank])
        self._socket.send_multipart((self._topic, number, batch))
        self._num_batches += 1
        return len(events)

    def close(self) -> None:
        """Stop publishing; what has been sent still arrives."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def as_blocks(events: Iterable[Event], chunk_tokens: int) -> list[list[Any]]:
    """Events as vLLM writes them; chunks of one prompt that were stored in a row share one."""
    blocks: list[list[Any]] = []
    for event in events:
        medium = MEDIA[event.tier]
        last = blocks[-1] if blocks else None
        if isinstance(event, ChunkStored):
            if len(event.tokens) < chunk_tokens:
                continue
            follows = last and last[0] == "BlockStored" and last[1][-1] == event.parent
            if last and follows and last[6] == medium:
                last[1].append(event.key)
                last[3] += event.tokens.tolist()
                continue
            stored = [event.key], event.parent, event.tokens.tolist(), chunk_tokens, None, medium
            blocks.append(["BlockStored", *stored, None])
        elif event.num_tokens == chunk_tokens:
            if last and last[0] == "BlockRemoved" and last[2] == medium:
                last[1].append(event.key)
            else:
                blocks.append(["BlockRemoved", [event.key], medium])
    return blocks
