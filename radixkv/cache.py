"""KVCache: planner and executor joined in one process. Start reading here.

    store(tokens, slots) ─▶ Planner ─▶ commands ─▶ Executor ─▶ engine memory ◀─▶ memory ◀─▶ disk
    load(handle, slots)        ▲                      │
                               └── tick() ◀─ completions

The engine (or you) owns KV in slots; the cache copies it out, finds it again by tokens, and copies
it back. All calls are made from one thread. Nothing becomes visible before `tick()` has heard that
its bytes are down.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from functools import partial
from typing import Literal, Self
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from radixkv.commands import (
    Command,
    Completion,
    CompletionStatus,
    EngineSlots,
    SlotSource,
    Tokens,
    slot_source,
)
from radixkv.config import CacheConfig
from radixkv.executor import Executor
from radixkv.group import RankGroup
from radixkv.index import Match, PrefixHandle
from radixkv.layout import EngineMemory, KVLayout
from radixkv.metrics import Metrics
from radixkv.namespace import Namespace
from radixkv.planner import Planner
from radixkv.prefetch import Prefetch
from radixkv.recall import IndexKeeper, keep_index, recall
from radixkv.restore import check_groups, fingerprints, in_common
from radixkv.ticket import Ticket
from radixkv.ticks import RateMeter, TickRecord, decode, encode
from radixkv.transplant import Progress, Transplanted, export_chunks, import_chunks, nothing
from radixkv.watch import serve_status


class KVCache:
    """A prefix cache over memory and disk for the KV of one engine.

    Args:
        layout: The KV of one token on one rank.
        config: Settings; sizes are for the host and divided by the group's ranks.
        namespace: What must be equal beside the tokens; requests may name others in `namespace_id`.
        engine: The engine's KV memory; without it nothing can be stored or loaded until `attach`.
        group: How the ranks agree, for engines of several ranks.
        max_store_tokens: Engine slots that stores under way may lock; above it a store is dropped.

    Raises:
        TierError: A tier could not be opened; the reason says what to do.
    """

    def __init__(
        self,
        layout: KVLayout,
        config: CacheConfig | None = None,
        *,
        namespace: Namespace | None = None,
        engine: EngineMemory | None = None,
        group: RankGroup | None = None,
        max_store_tokens: float = float("inf"),
    ) -> None:
        self.layout = layout
        self._group = group or RankGroup()
        self.config = (config or CacheConfig()).for_rank(self._group.size)
        self.executor = Executor.from_config(
            layout,
            self.config,
            group_id=self._group.gather(uuid.uuid4().bytes)[0],
            rank=self._group.rank,
            world_size=self._group.size,
        )
        try:
            tiers = (self.executor.memory_units, self.executor.disk_units)
            memory_units, disk_units = np.min(np.array(self._group.gather(tiers)), axis=0).tolist()
            self.planner = Planner(
                layout,
                self.config,
                memory_units=memory_units,
                disk_units=disk_units,
                max_store_tokens=max_store_tokens,
            )
            self.namespace = namespace or Namespace("", layout.digest(self.config.chunk_tokens))
            self._digests = {0: bytes(16)}  # of the trees that were asked for
            self._default_namespace = self.namespace_id(self.namespace)
            self.num_restored_chunks = self._restore()
            if engine is not None:
                self.attach(engine)
        except BaseException:
            self.executor.close()
            raise
        self.keeper = self._keep_index()
        self._heard: dict[int, Completion] = {}
        self._tickets: WeakValueDictionary[int, Ticket] = WeakValueDictionary()
        self._meter = RateMeter(time.monotonic(), self.config.chunk_tokens)
        self._metrics = Metrics(rank=self._group.rank) if self.config.metrics else None
        self._status = serve_status(self.planner) if self.config.metrics else None
        logging.getLogger("radixkv").setLevel(self.config.log_level.upper())

    def attach(self, engine: EngineMemory) -> None:
        """Name the engine memory that stores and loads are about.

        Raises:
            ValueError: Its buffers do not fit the layout.
        """
        self.executor.attach(engine)

    def namespace_id(self, namespace: Namespace) -> int:
        """The tree of a namespace, as the number that other calls take."""
        digest = namespace.digest()
        tree = self.planner.index.namespace(digest)
        self._digests[tree] = digest
        return tree

    def match(
        self, tokens: Tokens, namespace: int | None = None, *, limit: int | None = None
    ) -> Match:
        """How many tokens of a prompt are kept, and how many of them in memory."""
        return self.planner.match(tokens, self._tree(namespace), limit=limit)

    def acquire(
        self,
        tokens: Tokens,
        namespace: int | None = None,
        *,
        limit: int | None = None,
        admission: int | None = None,
    ) -> PrefixHandle:
        """Match, mark as used, and pin until the handle is closed. Arguments as for `store`."""
        now = self.planner.new_admission() if admission is None else admission
        return self.planner.acquire(tokens, self._tree(namespace), limit=limit, time=now)

    def store(
        self,
        tokens: Tokens,
        slots: NDArray[np.int64] | SlotSource,
        namespace: int | None = None,
        *,
        limit: int | None = None,
        tail: bool = True,
        admission: int | None = None,
        is_computed: bool = False,
    ) -> Ticket | None:
        """Copy a prompt's KV out of the engine, as far as it is not kept yet.

        The slots must keep their contents until the ticket is done.

        Args:
            tokens: The prompt, from its first token.
            slots: Engine slot of each token, shape (len(tokens),), int64; or a function that gives
                those of the positions first … last − 1, called once if anything is to be copied.
            namespace: From `namespace_id`; None for the cache's own.
            limit: Tokens whose KV is complete; None for all.
            tail: Whether to keep a last chunk that is not full.
            admission: Number from `planner.new_admission()`; None draws one.
            is_computed: Whether the engine has heard that the KV is computed. Otherwise a copy out
                of a GPU begins behind all that the engine's stream holds.

        Returns:
            What to wait on, or None where there is nothing to copy or no room.

        Raises:
            ValueError: `slots` does not cover the tokens, or one is outside the engine's memory.
        """
        command = self.planner.store(
            tokens,
            slot_source(slots, len(tokens) if limit is None else limit),
            time=self.planner.new_admission() if admission is None else admission,
            namespace=self._tree(namespace),
            limit=limit,
            tail=tail,
            is_computed=is_computed,
        )
        self._submit()
        return None if command is None else self._ticket(command)

    def load(self, handle: PrefixHandle, slots: EngineSlots, first_token: int = 0) -> Ticket:
        """Copy the KV of a pinned prefix into engine memory, layer by layer.

        Returns once the copy is queued; the chunks stay until it has ended, even if the handle is
        closed. On a GPU it begins with `begin_loads`.

        Args:
            handle: Open handle on the tokens.
            slots: Where the tokens from `first_token` on go. Shape (num_tokens,), int64.
            first_token: Position of the first token to copy.

        Raises:
            ValueError: No tokens, or some that memory lacks (fetch them first), or a slot that the
                engine lacks.
            HandleClosedError: `handle` was closed.
        """
        command = self.planner.load(handle, first_token, slots)
        self._submit()
        return self._ticket(command)

    def begin_loads(self) -> None:
        """Begin, on a GPU, the loads queued since the last call, together: layer 0 of all comes
        first.

        Those of one batch belong together; what nobody begins, the next `tick` does.
        """
        self.executor.begin_loads()

    def prefetch(
        self, tokens: Tokens, namespace: int | None = None, *, limit: int | None = None
    ) -> Prefetch | None:
        """Begin to bring what disk and remote servers have into memory; None if that is nothing."""
        prefetch = self.planner.prefetch(tokens, self._tree(namespace), limit=limit)
        self._submit()
        return prefetch

    def end_prefetch(self, prefetch: Prefetch) -> int:
        """Stop waiting and unpin; gives the tokens that it brought into memory."""
        return self.planner.end_prefetch(prefetch)

    def fetch(
        self, tokens: Tokens, namespace: int | None = None, *, timeout_s: float = 60.0
    ) -> int:
        """Bring a prompt into memory and wait for it; gives its tokens there."""
        prefetch = self.prefetch(tokens, namespace)
        deadline = time.monotonic() + timeout_s
        while prefetch is not None and not prefetch.done and time.monotonic() < deadline:
            self.wait_for_completion(0.05)
            self.tick()
        if prefetch is not None:
            self.end_prefetch(prefetch)
        return self.match(tokens, namespace).num_memory_tokens

    def drop(self, tokens: Tokens, namespace: int | None = None) -> int:
        """Forget what begins with these tokens, on every tier; gives the number of chunks."""
        dropped = self.planner.drop(tokens, self._tree(namespace))
        self._submit()
        return dropped

    def move(
        self,
        tokens: Tokens,
        tier: Literal["memory", "disk"],
        namespace: int | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> int:
        """Move a subtree between memory and disk, and wait. Not for engines with several ranks.

        To "disk": what begins with `tokens` leaves memory once the disk has it, but for what a
        handle or a command holds. To "memory": what only the disk has is fetched, as far as there
        is room and `prefetch` deems it worth it; the disk keeps it.

        Args:
            tokens: The prefix; none means the whole namespace.
            tier: Where to.
            namespace: From `namespace_id`; None for the cache's own.
            timeout_s: For a move to disk, in all; for one to memory, of each prompt's fetch.

        Returns:
            Chunks that left memory, or came there.
        """
        tree, index = self._tree(namespace), self.planner.index
        if tier == "disk":
            self.settle(timeout_s)
            return index.demote(tokens, tree)
        if tier != "memory":
            raise ValueError(f"tier: expected 'memory' or 'disk', got {tier!r}")
        before = index.subtree_stats(tokens, tree).memory_chunks
        for prompt in index.walk(tokens, tree, with_path=True).prompts():
            self.fetch(prompt, tree, timeout_s=timeout_s)
        return index.subtree_stats(tokens, tree).memory_chunks - before

    def export_chunks(
        self,
        tokens: Tokens,
        path: str | os.PathLike[str],
        namespace: int | None = None,
        *,
        progress: Progress = nothing,
    ) -> Transplanted:
        """Write a subtree, tokens and bytes, to a file that another machine can take in.

        Waits until nothing is under way, then reads memory, and the disk for what only it has.

        Args:
            tokens: The prefix; none means the whole namespace.
            path: The file. One of that name is replaced once the new one is whole and on the disk.
                With several ranks each calls it, and writes its part to a file with ".rank0" and
                so on behind the name.
            namespace: From `namespace_id`; None for the cache's own.
            progress: Called with the number of chunks done and the number of all.

        Raises:
            ChunkFileError: The ranks do not have the same chunks, since one's disk is damaged.
            OSError: The file could not be written; one of that name is as it was.
        """
        self.settle(math.inf)
        tree = self._tree(namespace)
        subtree = self.planner.index.walk(tokens, tree, with_path=True)
        return export_chunks(
            path, subtree, self._digests[tree], self.executor, self._group, progress=progress
        )

    def import_chunks(
        self,
        path: str | os.PathLike[str],
        namespace: int | None = None,
        *,
        progress: Progress = nothing,
    ) -> Transplanted:
        """Take in what `export_chunks` wrote elsewhere, as if it had just been stored here.

        Every chunk's bytes are compared with their checksum. Room is made as for a store; where
        there is not enough, what was used last over there is what is kept. What a disk tier is to
        have goes there.

        Args:
            path: The file; with several ranks, which all call it, as for `export_chunks`.
            namespace: From `namespace_id`; None for the cache's own.
            progress: Called with the number of chunks done and the number of all.

        Raises:
            ChunkFileError: It is no such file, it was cut, its layout or namespace is another one,
                or the ranks' files do not belong together. Nothing was taken in.
            OSError: It cannot be read.
        """
        return import_chunks(
            path,
            self._digests[self._tree(namespace)],
            self.planner,
            self.executor,
            self._group,
            settle=partial(self.settle, math.inf),
            progress=progress,
        )

    def clear(self, *, disk: bool = False) -> None:
        """Forget what memory holds, and the disk too if asked; see `Planner.clear`."""
        self.planner.clear(disk=disk)
        self._submit()

    def tick(self) -> list[tuple[Command, Completion]]:
        """Hear what ended, on all ranks; plan and submit what follows. Once a step, on every rank.

        Returns:
            The commands that ended since the last tick.
        """
        if self._metrics is not None and self._metrics.is_due(time.monotonic()):
            self.show_metrics()
        completions = self.executor.poll()
        if completions:
            self._heard |= {completion.command_id: completion for completion in completions}
            stats = self.executor.stats()
            self._meter.fetch_bytes_per_s = stats.fetch.recent_gbps * 1e9
            self._meter.get_bytes_per_s = stats.get.recent_gbps * 1e9
        pending = self.planner.pending_ids
        self._meter.look(time.monotonic())
        if not pending and (self._group.size > 1 or not self.planner.needs_ticks):
            return []  # every replica knows that nothing is under way: there is nothing to agree on
        elapsed_us, rates = self._meter.take()
        record = TickRecord(elapsed_us, (), rates)
        if pending:
            row = encode(elapsed_us, self.planner.num_issued, pending, self._heard, rates)
            record = decode(self._group.minimum(row), pending)
        ended = self.planner.apply(record)
        for _, completion in ended:
            self._heard.pop(completion.command_id, None)
            if (ticket := self._tickets.pop(completion.command_id, None)) is not None:
                ticket.completion = completion
        self._submit()
        return ended

    def show_metrics(self) -> None:
        """Bring Prometheus's numbers up to date; `tick` does it once a second."""
        if self._metrics is not None:
            self._metrics.update(self.planner.counters, self.planner.levels())

    def note_launched(self) -> None:
        """The engine begins to compute prompts; some tick later it will tell that they are."""
        self._meter.note_launched()

    def note_computed(self, num_tokens: int) -> None:
        """The engine has told since the last tick that so many tokens of prompts are computed.

        What it takes to compute decides whether a prefetch from the disk is worth waiting for.
        """
        self._meter.note_computed(num_tokens)

    def wait_for_completion(self, timeout_s: float) -> None:
        """Sleep until this rank has something to tell, or time is up."""
        self.executor.wait(timeout_s)

    def settle(self, timeout_s: float = 60.0) -> bool:
        """Tick until nothing is under way, spills included; False if time ran out first."""
        deadline = time.monotonic() + timeout_s
        self.tick()
        while self.planner.pending_ids:
            if time.monotonic() > deadline:
                return False
            self.wait_for_completion(0.05)
            self.tick()
        return True

    def close(self) -> None:
        """Finish what is under way, within bounds, and give all back. May be called twice."""
        if self._status is not None:
            self._status.close()
        self.executor.close()
        if self.keeper is not None:
            self.keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tree(self, namespace: int | None) -> int:
        if namespace is None:
            return self._default_namespace
        if namespace not in self._digests:
            raise ValueError(f"namespace: expected a number from namespace_id, got {namespace!r}")
        return namespace

    def _submit(self) -> None:
        for command in (commands := self.planner.take_commands()):
            try:
                self.executor.submit(command)
            except BaseException:  # the caller's mistake: planned, but never begun
                for id in range(command.command_id, commands[-1].command_id + 1):
                    self._heard[id] = Completion(id, 0, CompletionStatus.FAILED)
                raise

    def _ticket(self, command: Command) -> Ticket:
        ticket = Ticket(command.command_id, self.executor, self.tick)
        self._tickets[command.command_id] = ticket  # not for longer than somebody has it
        return ticket

    def _restore(self) -> int:
        """Put what the disk holds into the tree: what every rank has alike."""
        restored, folder = self.executor.restored, self.config.disk_path
        if restored is None or folder is None:
            return 0
        if self._group.size > 1:
            check_groups(self._group.gather(restored.group_id))
            restored = in_common(restored, self._group.gather(fingerprints(restored)))
        saved, is_lost = recall(folder, self.planner.index, self._group)
        self.planner.counters.recalls_failed += is_lost
        self.planner.restore(restored, saved)
        return len(restored)

    def _keep_index(self) -> IndexKeeper | None:
        """From now on, what is worth knowing after a restart is written down."""
        folder = self.config.disk_path
        if folder is None or self._group.rank != 0:
            return None
        return keep_index(self.planner.index, folder)
