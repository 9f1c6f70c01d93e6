"""Mooncake's distributed store as a remote tier.

    submit ─┬─ Lookup, Get ─▶ a thread that reads  ─┐
            └─ Put ─────────▶ a thread that writes ─┴─▶ the executor's completions

Mooncake's client exists in Python only, so its threads are Python's; it frees the GIL while it
moves bytes, and those go from and to the memory tier, which is registered with it once. What is
large comes by TCP without a loop that asks for it (`mooncake_reads.py`). Calls cannot be
interrupted: with a master that hangs each takes 30 seconds. So nobody waits for one beyond the
timeout: what is queued behind it fails, and until the store answers again every command fails at
once. Setting up without a master takes it 90 seconds, in which it keeps the GIL: it is done here
once a process of its own has done it.
"""

from __future__ import annotations

import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from radixkv import _native
from radixkv.commands import CompletionStatus, Get, Lookup, Put
from radixkv.errors import TierError
from radixkv.remote_url import MooncakeUrl
from radixkv.tiers.mooncake_reads import MooncakeReader, start_engine

logger = logging.getLogger(__name__)

RemoteCommand = Put | Get | Lookup

_OK, _NO_SPACE, _NOT_FOUND, _DOWN = 0, -200, -704, -900  # and below: no answer, or too late
_MAX_CHUNKS = 4096
_FIRST_BATCH, _MORE = 64, 4096
_MOST_AT_ONCE = 256
_LOCAL_BUFFER_BYTES = 16 << 20
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.2, 5.0
_IDLE_CHECK_S = 1.0
_LEAST_BYTES_PER_S = 20e6  # slower than this is as good as dead
# How long any thread of the process, the engine's above all, may keep the GIL from a lane that
# waits for it, twice a command. At Python's 5 ms that was most of what a small get took.
_SWITCH_INTERVAL_S = 0.5e-3
_PROBE = "rkv1:probe"
_RDMA_DEVICES = Path("/sys/class/infiniband")
_SETUP_TIMEOUT_S = 10.0
_SETUP_PROGRAM = """
import os, sys
from mooncake.store import MooncakeDistributedStore
host, metadata, protocol, devices, master = sys.argv[1:]
code = MooncakeDistributedStore().setup(host, metadata, 0, 1 << 20, protocol, devices, master)
os._exit(code != 0)
"""
_KINDS = {
    Put: _native.CommandKind.PUT,
    Get: _native.CommandKind.GET,
    Lookup: _native.CommandKind.LOOKUP,
}


class StoreDownError(Exception):
    """The store does not answer."""


def import_store() -> Any:
    """The module of Mooncake's client.

    Raises:
        TierError: It cannot be imported; the reason names the library that is missing.
    """
    try:
        import mooncake.store
    except ImportError as error:
        raise TierError(
            "mooncake",
            "import",
            f"{error}: pip install mooncake-transfer-engine, or mooncake-transfer-engine-non-cuda "
            "where there is no CUDA; both need libibverbs1 (Debian, Ubuntu)",
        ) from error
    return mooncake.store


def missing_device(url: MooncakeUrl) -> str | None:
    """Why the RDMA that a URL asks for cannot be had on this host; None where it can.

    Mooncake itself would take TCP instead, and tell nobody.
    """
    if url.protocol != "rdma":
        return None
    there = {device.name for device in _RDMA_DEVICES.glob("*")}
    wanted = set(filter(None, url.devices.split(",")))
    if there and wanted <= there:
        return None
    missing = ", ".join(sorted(wanted - there))
    return f"protocol=rdma: this host has no RDMA device {missing}".strip()


class MooncakeTier:
    """One store. Connects in the background.

    Args:
        url: Where it is.
        executor: The native executor, whose memory is read and written.
        pool: Address and size of that memory.
        chunk_tokens: Tokens of a full chunk. Parts of one are not found here.
        unit_bytes: Granularity of the memory.

    Raises:
        TierError: Mooncake's client cannot be imported.
    """

    def __init__(
        self,
        url: MooncakeUrl,
        executor: _native.Executor,
        pool: tuple[int, int],
        chunk_tokens: int,
        unit_bytes: int,
    ) -> None:
        self._module = import_store()
        self._url = url
        self._executor = executor
        self._pool = pool
        self._chunk_tokens = chunk_tokens
        self._unit_bytes = unit_bytes
        self._store: Any = None
        self._read: Callable[..., Iterable[int]] = lambda *_: ()  # the store reads everything
        self._lock = threading.Lock()
        self._reason = "not asked yet"
        self._serves = False
        self.num_changes = 0
        self._closing = threading.Event()
        self._reads = _Lane(self, "reads", self._keep_store)
        self._writes = _Lane(self, "writes", None)
        sys.setswitchinterval(min(_SWITCH_INTERVAL_S, sys.getswitchinterval()))
        self._reads.start()
        self._writes.start()

    @property
    def health(self) -> tuple[bool, str]:
        """Whether it serves now, and if not, why."""
        with self._lock:
            return self._serves, self._reason

    def submit(self, command: RemoteCommand) -> None:
        """Queue a command; it may end at once. Never waits."""
        if self._executor.begin_elsewhere(_KINDS[type(command)], command.command_id):
            lane = self._writes if isinstance(command, Put) else self._reads
            if not lane.offer(command):
                self.fail(command)

    def give_up_what_hangs(self) -> None:
        """Called now and then: fails what waits for a call that does not return."""
        for lane in (self._reads, self._writes):
            if self._serves and lane.is_late:
                self.cut_off("a call does not return")
                lookup = lane.take_lookup()
                if lookup is not None:
                    self.fail(lookup)

    def close(self, drain_s: float) -> None:
        """End; a call that does not return is left behind."""
        self._writes.drain(drain_s)
        self._closing.set()
        self.cut_off("closing")
        for lane in (self._reads, self._writes):
            lane.wake()
        ended = [lane.join(self._url.timeout_s) for lane in (self._reads, self._writes)]
        if all(ended) and self._store is not None:
            self._store.close()
        self._store = None

    # --- of the lanes

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    @property
    def serves(self) -> bool:
        """Whether commands are taken."""
        return self._serves

    def time_for(self, command: RemoteCommand) -> float:
        """How long it may take, in seconds."""
        num_bytes = int(command.chunks["num_units"].sum(dtype=np.int64)) * self._unit_bytes
        return self._url.timeout_s + num_bytes / _LEAST_BYTES_PER_S

    def cut_off(self, reason: str) -> None:
        """From now on commands fail at once, until the store answers again."""
        self._note(False, reason)
        for lane in (self._reads, self._writes):
            for command in lane.take_all():
                self.fail(command)

    def fail(self, command: RemoteCommand) -> None:
        """It was not carried out."""
        self.end(command, 0, CompletionStatus.FAILED, 0)

    def end(
        self, command: RemoteCommand, num_ok: int, status: CompletionStatus, num_bytes: int
    ) -> None:
        """It ended."""
        kind = _KINDS[type(command)]
        self._executor.end_elsewhere(kind, command.command_id, num_ok, int(status), num_bytes)

    def look_up(self, lookup: Lookup) -> int:
        """How many tokens the store has. On a lane's thread.

        Raises:
            StoreDownError: The store does not answer.
        """
        names = self._executor.chunk_names(lookup.parent_key, lookup.tokens)
        return self._count(names) * self._chunk_tokens

    def move(self, command: Put | Get, heads: int) -> None:
        """Carry a command out, with room for heads at this address. On a lane's thread.

        Raises:
            StoreDownError: The store does not answer; the command has not ended.
        """
        objects = self._executor.outside_objects(
            _KINDS[type(command)],
            command.command_id,
            command.chunks,
            command.tokens,
            command.parent_key,
            heads,
        )
        move = self._put if isinstance(command, Put) else self._get
        num_ok, status = move(objects)
        self.end(command, num_ok, status, objects.num_bytes(num_ok))

    def _count(self, names: list[str]) -> int:
        """How many of the names, from the front, the store has."""
        first, batch = 0, _FIRST_BATCH
        while first < len(names):
            asked = names[first : first + batch]
            there = self._check(self._store.batch_is_exist(asked))
            missing = next((i for i, answer in enumerate(there) if answer != 1), len(there))
            first += missing
            if missing < len(asked):
                break
            batch = _MORE
        return first

    def _put(self, objects: _native.OutsideObjects) -> tuple[int, CompletionStatus]:
        held = objects.begin_put()
        names = [objects.name(index) for index in range(held)]
        there = self._check(self._store.batch_is_exist(names)) if names else []
        missing = [index for index in range(held) if there[index] != 1]
        addresses, sizes = objects.buffers(held)
        replicas = self._replicas()
        answers: list[int] = []
        for part in _in_parts(missing):
            answers += self._check(
                self._store.batch_put_from_multi_buffers(
                    [names[index] for index in part],
                    [addresses[index] for index in part],
                    [sizes[index] for index in part],
                    replicas,
                )
            )
        for index, answer in zip(missing, answers, strict=True):
            if answer != _OK:
                is_full = answer == _NO_SPACE
                return index, CompletionStatus.FULL if is_full else CompletionStatus.FAILED
        is_whole = held == len(objects)
        return held, CompletionStatus.OK if is_whole else CompletionStatus.CORRUPT

    def _get(self, objects: _native.OutsideObjects) -> tuple[int, CompletionStatus]:
        objects.begin_get()
        names = [objects.name(index) for index in range(len(objects))]
        addresses, sizes = objects.buffers(len(objects))
        answers: list[int] = []
        for part in _in_parts(range(len(names))):
            some = slice(part[0], part[-1] + 1)
            for num_come in self._read(names[some], addresses[some], sizes[some]):
                objects.finish_get(part[0] + num_come)
                answers[part[0] :] = map(sum, sizes[part[0] : part[0] + num_come])
            rest = slice(len(answers), some.stop)
            if names[rest]:
                answers += self._check(
                    self._store.batch_get_into_multi_buffers(
                        names[rest], addresses[rest], sizes[rest]
                    )
                )
        num_bytes = [sum(both) for both in sizes]
        num_come = _num_equal(answers, num_bytes)
        num_right = objects.finish_get(num_come)
        if num_right < num_come:
            self._store.batch_remove([names[num_right]], True)  # so that it is put anew
            return num_right, CompletionStatus.CORRUPT
        if num_come < len(objects):
            is_absent = answers[num_come] == _NOT_FOUND
            return num_come, CompletionStatus.ABSENT if is_absent else CompletionStatus.FAILED
        return num_come, CompletionStatus.OK

    def _check(self, answers: list[int]) -> list[int]:
        if answers and min(answers) <= _DOWN:
            raise StoreDownError("the master does not answer")
        return answers

    def _replicas(self) -> Any:
        config = self._module.ReplicateConfig()
        config.replica_num = self._url.num_replicas
        if self._url.soft_pin:
            config.soft_pin_action = self._module.SoftPinAction.ENABLE
        return config

    # --- of the reading lane's thread

    def _keep_store(self) -> None:
        """Set the store up, or ask whether it is there again; returns when it is."""
        pause_s = _FIRST_PAUSE_S
        while not self.is_closing:
            try:
                reason = self._set_up() if self._store is None else self._probe()
            except Exception as error:  # what the client throws must not end our thread
                reason = repr(error)
            if reason is None:
                self._note(True, "")
                return
            self._note(False, reason)
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _set_up(self) -> str | None:
        url = self._url
        missing = missing_device(url)
        if missing is not None:
            return missing
        if not self._can_set_up():
            return "the master does not answer"
        store = self._module.MooncakeDistributedStore()
        engine = start_engine(url)
        where = (url.local_host, url.metadata, url.segment_bytes, _LOCAL_BUFFER_BYTES)
        how = (url.protocol, url.devices, url.master)
        engines = () if engine is None else (engine.get_engine(),)
        code = store.setup(*where, *how, *engines)
        if code != _OK:
            return f"setup failed with {code}"
        scratches = (lane.scratch for lane in (self._reads, self._writes))
        heads = ((scratch.ctypes.data, scratch.nbytes) for scratch in scratches)
        for address, num_bytes in (self._pool, *heads):
            code = store.register_buffer(address, num_bytes)
            if code != _OK:
                return f"memory could not be registered: {code}"
        if engine is not None:
            self._read = MooncakeReader(store, engine, url.local_host).read
        self._store = store
        return None

    def _can_set_up(self) -> bool:
        """Whether it takes no longer than it should, tried by a process of its own."""
        url = self._url
        host, _, port = url.master.rpartition(":")
        try:
            socket.create_connection((host, int(port)), url.timeout_s).close()
            words = (url.local_host, url.metadata, url.protocol, url.devices, url.master)
            program = [sys.executable, "-c", _SETUP_PROGRAM, *words]
            silent = subprocess.DEVNULL
            done = subprocess.run(program, timeout=_SETUP_TIMEOUT_S, stdout=silent, stderr=silent)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def _probe(self) -> str | None:
        is_there = self._store.is_exist(_PROBE)
        return None if is_there in (0, 1) else f"the master does not answer ({is_there})"

    def _note(self, serves: bool, reason: str) -> None:
        with self._lock:
            if (self._serves, self._reason) != (serves, reason):
                self._serves, self._reason = serves, reason
                self.num_changes += 1


def _num_equal(answers: list[int], expected: list[int]) -> int:
    """How many, from the front, are as expected."""
    pairs = zip(answers, expected, strict=True)
    return next((i for i, (answer, right) in enumerate(pairs) if answer != right), len(expected))


def _in_parts(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """As many as the client moves in one call: of 4,096 at once, it failed all but 1,024."""
    for first in range(0, len(indices), _MOST_AT_ONCE):
        yield indices[first : first + _MOST_AT_ONCE]


class _Lane:
    """A thread that carries out commands one after the other."""

    def __init__(self, tier: MooncakeTier, name: str, recover: Callable[[], None] | None) -> None:
        self._tier = tier
        self._recover = recover
        self._queue: queue.SimpleQueue[RemoteCommand | None] = queue.SimpleQueue()
        self._late_at: float | None = None  # None: nothing is under way
        self._lock = threading.Lock()
        self._lookup: Lookup | None = None
        self.scratch = np.zeros(_MAX_CHUNKS * _native.MAX_HEAD_BYTES, np.uint8)
        self._thread = threading.Thread(target=self._run, name=f"radixkv-{name}", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def offer(self, command: RemoteCommand) -> bool:
        """False where it is not taken."""
        if not self._tier.serves or len(command.chunks) > _MAX_CHUNKS:
            return False
        self._queue.put(command)
        return True

    def take_all(self) -> list[RemoteCommand]:
        """What is queued, which is not carried out any more."""
        taken: list[RemoteCommand] = []
        while True:
            try:
                command = self._queue.get_nowait()
            except queue.Empty:
                return taken
            if command is not None:
                taken.append(command)

    def wake(self) -> None:
        """Let the thread look at whether it is to go on."""
        self._queue.put(None)

    @property
    def is_late(self) -> bool:
        """Whether the command under way takes longer than it may."""
        late_at = self._late_at
        return late_at is not None and time.monotonic() > late_at

    def take_lookup(self) -> Lookup | None:
        """The lookup under way, whose answer is of no use any more."""
        with self._lock:
            lookup, self._lookup = self._lookup, None
        return lookup

    def drain(self, timeout_s: float) -> None:
        """Wait until nothing is queued or under way."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._tier.serves:
            if self._queue.empty() and self._late_at is None:
                return
            time.sleep(0.01)

    def join(self, timeout_s: float) -> bool:
        """Whether the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._tier.is_closing:
            if self._recover is not None and not self._tier.serves:
                self._recover()
                continue
            try:
                command = self._queue.get(timeout=_IDLE_CHECK_S)
            except queue.Empty:
                continue
            if command is not None:
                self._carry_out(command)

    def _carry_out(self, command: RemoteCommand) -> None:
        self._late_at = time.monotonic() + self._tier.time_for(command)
        try:
            if isinstance(command, Lookup):
                self._look_up(command)
            else:
                self._tier.move(command, self.scratch.ctypes.data)
        except StoreDownError as error:
            self._give_up(command, str(error))
        except Exception as error:  # what the client throws must not end our thread
            logger.exception("command %d failed", command.command_id)
            self._give_up(command, repr(error))
        finally:
            self._late_at = None

    def _look_up(self, lookup: Lookup) -> None:
        self._lookup = lookup
        num_tokens = self._tier.look_up(lookup)
        if self.take_lookup() is not None:  # nobody has given it up meanwhile
            self._tier.end(lookup, num_tokens, CompletionStatus.OK, 0)

    def _give_up(self, command: RemoteCommand, reason: str) -> None:
        self._tier.cut_off(reason)
        if not isinstance(command, Lookup) or self.take_lookup() is not None:
            self._tier.fail(command)
