"""Threads that carry out commands on a Mooncake store: two a lane, so that its bytes never rest.

    one     │ take, move bytes ────▶│ check what came ───▶│ take, wait for its turn, …
    other   │ take, wait for its turn │ move bytes ────────▶│ check what came ──▶

Bytes are moved by one at a time: two at once come no sooner, and cost more. What is put is read for
its checksum before its turn, what is gotten after it. Lookups take no turn.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import numpy as np

from radixkv import _native
from radixkv.commands import CompletionStatus, Get, Lookup, Put

logger = logging.getLogger(__name__)

RemoteCommand = Put | Get | Lookup

_NUM_THREADS = 2
_MAX_CHUNKS = 4096
_IDLE_CHECK_S = 1.0


class StoreDownError(Exception):
    """The store does not answer."""


class Tier(Protocol):
    """What a lane needs of its tier."""

    @property
    def is_closing(self) -> bool: ...
    @property
    def serves(self) -> bool: ...
    def time_for(self, command: RemoteCommand) -> float: ...
    def cut_off(self, reason: str) -> None: ...
    def fail(self, command: RemoteCommand) -> None: ...
    def end(
        self, command: RemoteCommand, num_ok: int, status: CompletionStatus, num_bytes: int
    ) -> None: ...
    def look_up(self, lookup: Lookup) -> int: ...
    def move(self, command: Put | Get, heads: int, turn: Turn) -> None: ...


class Lane:
    """Carries out commands, begun in the order in which they come.

    Args:
        tier: Whose commands.
        name: Of the threads.
        recover: Called by one of them while the tier does not serve; returns when it does.
    """

    def __init__(self, tier: Tier, name: str, recover: Callable[[], None] | None) -> None:
        self._tier = tier
        self._queue: queue.SimpleQueue[RemoteCommand | None] = queue.SimpleQueue()
        self.changed = threading.Condition()
        self.is_moving = False
        self._workers = [
            _Worker(tier, self, f"radixkv-{name}-{number}", None if number else recover)
            for number in range(_NUM_THREADS)
        ]

    def start(self) -> None:
        """Begin to serve."""
        for worker in self._workers:
            worker.thread.start()

    def heads(self) -> list[tuple[int, int]]:
        """Address and size of the memory for objects' heads, which is to be registered."""
        return [(worker.scratch.ctypes.data, worker.scratch.nbytes) for worker in self._workers]

    def offer(self, command: RemoteCommand) -> bool:
        """False where it is not taken."""
        if not self._tier.serves or len(command.chunks) > _MAX_CHUNKS:
            return False
        self._queue.put(command)
        return True

    def take(self) -> RemoteCommand | None:
        """The next command; None where there is none for a while. On a thread of the lane."""
        try:
            return self._queue.get(timeout=_IDLE_CHECK_S)
        except queue.Empty:
            return None

    def take_all(self) -> list[RemoteCommand]:
        """What is queued, which is not carried out any more; who waits for a turn gives up."""
        taken: list[RemoteCommand] = []
        with self.changed:
            self.changed.notify_all()
        while True:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return taken
            if command is not None:
                taken.append(command)

    @property
    def is_late(self) -> bool:
        """Whether a call takes longer than it may."""
        return any(worker.is_late for worker in self._workers)

    def take_late_lookups(self) -> list[Lookup]:
        """Lookups whose answers are of no use any more."""
        late = (worker.take_lookup() for worker in self._workers if worker.is_late)
        return [lookup for lookup in late if lookup is not None]

    def drain(self, timeout_s: float) -> None:
        """Wait until nothing is queued or under way."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._tier.serves:
            if self._queue.empty() and not any(worker.is_busy for worker in self._workers):
                return
            time.sleep(0.01)

    def join(self, deadline: float) -> bool:
        """Whether all threads have ended by this time. The tier is closing."""
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.thread.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in self._workers)


class Turn:
    """In it one command of a lane moves its bytes; nobody waits for it beyond the store's end.

    Args:
        lane: Whose turn.
        worker: The thread that wants it.
        limit_s: How long it may take before the store counts as hanging.
    """

    def __init__(self, tier: Tier, lane: Lane, worker: _Worker, limit_s: float) -> None:
        self._tier = tier
        self._lane = lane
        self._worker = worker
        self._limit_s = limit_s

    def __enter__(self) -> None:
        lane = self._lane
        with lane.changed:
            lane.changed.wait_for(lambda: not (lane.is_moving and self._tier.serves))
            if not self._tier.serves:
                raise StoreDownError("cut off")
            lane.is_moving = True
        self._worker.late_at = time.monotonic() + self._limit_s

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._worker.late_at = None
        with self._lane.changed:
            self._lane.is_moving = False
            self._lane.changed.notify()


class _Worker:
    """A thread that carries out commands one after the other."""

    def __init__(
        self, tier: Tier, lane: Lane, name: str, recover: Callable[[], None] | None
    ) -> None:
        self._tier = tier
        self._lane = lane
        self._recover = recover
        self._lock = threading.Lock()
        self._lookup: Lookup | None = None
        self.late_at: float | None = None  # None: no call is under way
        self.is_busy = False
        self.scratch = np.zeros(_MAX_CHUNKS * _native.MAX_HEAD_BYTES, np.uint8)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_late(self) -> bool:
        late_at = self.late_at
        return late_at is not None and time.monotonic() > late_at

    def take_lookup(self) -> Lookup | None:
        """The lookup under way, which has not ended."""
        with self._lock:
            lookup, self._lookup = self._lookup, None
        return lookup

    def _run(self) -> None:
        while not self._tier.is_closing:
            if self._recover is not None and not self._tier.serves:
                self._recover()
                continue
            command = self._lane.take()
            if command is not None:
                self.is_busy = True
                self._carry_out(command)
                self.is_busy = False

    def _carry_out(self, command: RemoteCommand) -> None:
        try:
            if isinstance(command, Lookup):
                self._look_up(command)
            else:
                turn = Turn(self._tier, self._lane, self, self._tier.time_for(command))
                self._tier.move(command, self.scratch.ctypes.data, turn)
        except StoreDownError as error:
            self._give_up(command, str(error))
        except Exception as error:  # what the client throws must not end our thread
            logger.exception("command %d failed", command.command_id)
            self._give_up(command, repr(error))
        finally:
            self.late_at = None

    def _look_up(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self.late_at = time.monotonic() + self._tier.time_for(lookup)
        num_tokens = self._tier.look_up(lookup)
        if self.take_lookup() is not None:  # nobody has given it up meanwhile
            self._tier.end(lookup, num_tokens, CompletionStatus.OK, 0)

    def _give_up(self, command: RemoteCommand, reason: str) -> None:
        if self._tier.serves:
            self._tier.cut_off(reason)
        if not isinstance(command, Lookup) or self.take_lookup() is not None:
            self._tier.fail(command)
