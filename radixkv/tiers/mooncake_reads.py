"""Reads of Mooncake's objects, whose thread sleeps while the bytes come.

    names ─▶ store: in which process? ─▶ transfer engine: begin ─▶ nap, ask, nap, ask … ─▶ come

The store's own get asks in a loop without a pause, which takes a CPU, until the last byte is there.
Here the transfer engine below it is told what to read: what has come is compared while the rest is
on its way, and the CPU is left to the threads that move bytes, and to the engine's. Nothing depends
on it: what does not come this way, the store is asked for. Where a put is to go the store tells
nobody, so that puts keep its loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from radixkv.remote_url import MooncakeUrl

_CALLS = ("get_engine", "get_rpc_port", "batch_transfer_async_read", "transfer_check_status")
_UNDER_WAY, _COMPLETE = 0, 1
_NOT_BEGUN = (0, 2**64 - 1)
_NAP_S = 0.25e-3
_ENOUGH_UNDER_WAY_BYTES = 8 << 20  # 25 Gbit/s for 2 ms and more
_WORTH_IT_BYTES = 1 << 20  # of an object: less comes sooner than a nap ends


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object lies: in which process, and its first byte's address there."""

    process: str
    address: int


def start_engine(url: MooncakeUrl) -> Any | None:
    """A transfer engine for a store to be set up with; None where its own will do.

    RDMA moves bytes without a CPU. With a metadata server an engine's name has to be the store's.
    """
    if url.protocol != "tcp" or url.metadata != "P2PHANDSHAKE":
        return None
    try:
        from mooncake.engine import TransferEngine
    except ImportError:
        return None
    if not all(hasattr(TransferEngine, name) for name in _CALLS):
        return None  # an older release
    engine = TransferEngine()
    code = engine.initialize(url.local_host, url.metadata, url.protocol, url.devices)
    return engine if code == 0 else None


class MooncakeReader:
    """Reads objects that a store knows.

    Args:
        store: Set up with the engine.
        engine: What `start_engine` gave.
        own_host: What the engine was told that this host is called.
    """

    def __init__(self, store: Any, engine: Any, own_host: str) -> None:
        self._store = store
        self._engine = engine
        self._own_process = f"{own_host}:{engine.get_rpc_port()}"

    def read(
        self, names: Sequence[str], addresses: list[list[int]], sizes: list[list[int]]
    ) -> Iterator[int]:
        """Let objects come into these buffers.

        Yields:
            How many, from the front, have come so far. Ends at the first that does not come this
            way. Nothing is under way any more then, nor when the caller stops.
        """
        if sum(map(sum, sizes)) < len(sizes) * _WORTH_IT_BYTES:
            return
        places = self._places(names, sizes)
        num_at_once = -(-_ENOUGH_UNDER_WAY_BYTES // max(map(sum, sizes)))
        under_way: deque[list[int]] = deque()
        waiting = zip(places, addresses, sizes, strict=False)
        try:
            for num_come in range(1, len(places) + 1):
                for each in islice(waiting, num_at_once - len(under_way)):
                    under_way.append(self._begin(*each))
                if not self._await(under_way.popleft()):
                    return
                yield num_come
        finally:
            for transfers in under_way:
                self._await(transfers)

    def _places(self, names: Sequence[str], sizes: list[list[int]]) -> list[_Place]:
        """Of the objects, from the front, that are whole in another process's memory."""
        replicas = self._store.batch_get_replica_desc(list(names))
        places: list[_Place] = []
        for name, wanted in zip(names, sizes, strict=True):
            place = self._place(replicas.get(name, ()), sum(wanted))
            if place is None:
                break
            places.append(place)
        return places

    def _place(self, replicas: Sequence[Any], num_bytes: int) -> _Place | None:
        for replica in replicas:
            if replica.is_memory_replica() and replica.status.name == "COMPLETE":
                buffer = replica.get_memory_descriptor().buffer_descriptor
                process = buffer.transport_endpoint
                # In this process the store copies, which no network is as fast as.
                if process != self._own_process and buffer.size == num_bytes:
                    return _Place(process, buffer.buffer_address)
        return None

    def _begin(self, place: _Place, addresses: list[int], sizes: list[int]) -> list[int]:
        """One transfer a buffer: of several in one, the engine may look at the first alone."""
        transfers, source = [], place.address
        for address, num_bytes in zip(addresses, sizes, strict=True):
            transfers.append(
                self._engine.batch_transfer_async_read(
                    place.process, [address], [source], [num_bytes]
                )
            )
            source += num_bytes
        return transfers

    def _await(self, transfers: list[int]) -> bool:
        """Whether all went well; none goes on."""
        answers = [self._end_of(transfer) for transfer in transfers if transfer not in _NOT_BEGUN]
        return answers == [_COMPLETE] * len(transfers)

    def _end_of(self, transfer: int) -> int:
        while (answer := int(self._engine.transfer_check_status(transfer))) == _UNDER_WAY:
            time.sleep(_NAP_S)
        return answer
