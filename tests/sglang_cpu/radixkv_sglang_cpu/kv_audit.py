"""Compares all KV that a server touches with what a server without any cache computed.

Answers hardly tell: the next token is the best of many, and stays the best when some of a thousand
rows of KV are wrong. So one server writes down what it computes
(`RADIXKV_TEST_KV_AUDIT=write:FOLDER`), and others compare (`check:FOLDER`):

    engine   each row that a forward read or wrote, after it: computed, found on the device, loaded
    stored   each chunk in radixkv's memory, when the end of its store is heard
    fetched  the same, when it came from the disk
    kept     what memory holds of all that was stored, when a test looks and nothing is under way
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .kv_reference import Comparison, PathKeys, Reference, Rows

VARIABLE = "RADIXKV_TEST_KV_AUDIT"
_KINDS = {"Store": "stored", "Fetch": "fetched"}
_NO_EXTENT = 0xFFFFFFFF


class EngineRows:
    """Reads rows out of SGLang's KV pool, past what would wait for a load."""

    def __init__(self, scheduler: Any) -> None:
        pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
        if hasattr(pool, "k_buffer"):
            pairs = zip(pool.k_buffer, pool.v_buffer, strict=True)
            buffers = [buffer for pair in pairs for buffer in pair]
        else:
            buffers = list(pool.kv_buffer)
        self._buffers = [buffer.numpy().reshape(len(buffer), -1) for buffer in buffers]
        self._req_to_token = scheduler.req_to_token_pool.req_to_token

    def of(self, pool_index: int, first: int, last: int) -> Rows:
        """The rows of a request's positions first … last − 1."""
        slots = self._req_to_token[pool_index, first:last].numpy()
        return np.stack([buffer[slots] for buffer in self._buffers], axis=1)


class ForwardAudit:
    """Follows the forwards of a scheduler: writes down or compares the rows of their requests."""

    def __init__(self, scheduler: Any, reference: Reference, comparison: Comparison | None) -> None:
        self._rows = EngineRows(scheduler)
        self._reference = reference
        self._comparison = comparison
        self._keys = PathKeys()
        self._reqs: list[Any] = []

    def begin(self, batch: Any) -> None:
        self._reqs = list(batch.reqs)

    def end(self, forward: Any) -> None:
        """All rows of the batch's requests are in their slots."""
        ends = forward.seq_lens.tolist()
        is_extend = forward.forward_mode.is_extend()
        num_new = forward.extend_seq_lens_cpu if is_extend else [1] * len(ends)
        inputs = iter(forward.input_ids.tolist())
        for i, req in enumerate(self._reqs):
            computed = [next(inputs) for _ in range(num_new[i])]
            first, last = ends[i] - num_new[i], ends[i]
            # The token that a decode step gets is not always in the request yet.
            tokens = [*req.origin_input_ids, *req.output_ids][:first] + computed
            if len(tokens) != last:
                raise AssertionError(f"{req.rid}: {len(tokens)} tokens are known of {last}")
            keys = self._keys.of(req.rid, tokens)
            pool_index = int(forward.req_pool_indices[i])
            if self._comparison is None:
                self._reference.add(keys[first:], self._rows.of(pool_index, first, last))
            else:
                place = f"request {req.rid}, forward of {first} … {last - 1}"
                self._comparison.compare("engine", keys, self._rows.of(pool_index, 0, last), place)


class MemoryAudit:
    """Compares what radixkv's memory holds: as it comes there, and when asked."""

    def __init__(self, kv: Any, comparison: Comparison) -> None:
        self._kv = kv
        self._comparison = comparison
        self._keys = PathKeys()
        self._stores: dict[int, list[int]] = {}  # command id -> tokens
        self._sequences: set[tuple[int, tuple[int, ...]]] = set()  # tree, tokens
        self._paths: dict[tuple[int, int], list[bytes]] = {}  # chunk -> keys up to its end
        self._moving: dict[int, Any] = {}  # command id -> store or fetch
        self._watch(kv.store, kv.prefetch, kv.executor.submit, kv.executor.poll)

    def _watch(self, store: Any, prefetch: Any, submit: Any, poll: Any) -> None:
        def watched_store(tokens: Any, slots: Any, tree: int, **options: Any) -> Any:
            ticket = store(tokens, slots, tree, **options)
            if ticket is not None:
                self._stores[ticket.command_id] = list(tokens[: options.get("limit")])
                self._sequences.add((tree, tuple(self._stores[ticket.command_id])))
            return ticket

        def watched_prefetch(tokens: Any, tree: int, **options: Any) -> Any:
            found = prefetch(tokens, tree, **options)
            if found is not None:
                self._learn(list(tokens[: options.get("limit")]), found.handle.slices())
            return found

        def watched_submit(command: Any) -> None:
            submit(command)
            if type(command).__name__ in _KINDS:
                self._moving[command.command_id] = command

        def watched_poll(*args: Any) -> Any:
            # Not later: once the planner has heard, it may give the extents to others.
            completions = poll(*args)
            for completion in completions:
                command = self._moving.pop(completion.command_id, None)
                if command is not None:
                    self._ended(command, completion.num_ok)
            return completions

        self._kv.store, self._kv.prefetch = watched_store, watched_prefetch
        self._kv.executor.submit, self._kv.executor.poll = watched_submit, watched_poll

    def _ended(self, command: Any, num_ok: int) -> None:
        if command.command_id in self._stores:
            self._learn(self._stores.pop(command.command_id), command.chunks)
        self._compare(_KINDS[type(command).__name__], command.chunks[:num_ok])

    def _learn(self, tokens: list[int], chunks: Any) -> None:
        """The tokens of those chunks that lie whole on the path of `tokens`."""
        keys = self._keys.of("", tokens)
        for chunk in chunks[chunks["count"] == chunks["num_tokens"]]:
            end = int(chunk["span"]) * self._kv.config.chunk_tokens + int(chunk["num_tokens"])
            self._paths[_name(chunk)] = keys[:end]

    def _compare(self, kind: str, chunks: Any) -> None:
        layout = self._kv.layout
        for chunk in chunks:
            num_tokens = int(chunk["num_tokens"])
            path = self._paths.get(_name(chunk))
            if path is None:
                self._comparison.skip(kind, num_tokens)
                continue
            data = self._kv.executor.read_memory(
                int(chunk["memory_offset"]), num_tokens * layout.token_bytes
            )
            rows = np.frombuffer(data, np.float32).reshape(layout.num_rows, num_tokens, -1)
            first = len(path) - num_tokens
            place = f"chunk {int(chunk['id'])} of {num_tokens} tokens"
            self._comparison.compare(kind, path[first:], rows.swapaxes(0, 1), place, first)

    def compare_kept(self) -> None:
        """Compares each chunk that memory holds of what was stored; not while any is written."""
        if self._kv.planner.pending_ids:
            return
        seen = set()
        for tree, tokens in self._sequences:
            match = self._kv.match(np.array(tokens, np.int64), tree)
            for chunk in match.slices():
                if chunk["memory_offset"] != _NO_EXTENT and _name(chunk) not in seen:
                    seen.add(_name(chunk))
                    self._compare("kept", [chunk])


def _name(chunk: Any) -> tuple[int, int]:
    return int(chunk["id"]), int(chunk["generation"])


class Audit:
    """All that is audited in one scheduler process."""

    def __init__(self, scheduler: Any, mode: str, folder: Path) -> None:
        reference = Reference(folder)
        self._comparison = None if mode == "write" else Comparison(reference)
        self.forwards = ForwardAudit(scheduler, reference, self._comparison)
        self._memory = None
        if self._comparison is not None and hasattr(scheduler.tree_cache, "_kv"):
            self._memory = MemoryAudit(scheduler.tree_cache._kv, self._comparison)

    def describe(self) -> dict[str, Any] | None:
        """What was compared since the server began; None where it writes the reference."""
        if self._memory is not None:
            self._memory.compare_kept()
        return None if self._comparison is None else self._comparison.describe()


_audits: list[Audit] = []  # of this process: one, or none


def install() -> None:
    """Hooks SGLang where a test asks for an audit."""
    mode, _, folder = os.environ.get(VARIABLE, "").partition(":")
    if not mode:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    def watch(_result: None, scheduler: Any, *_: Any, **__: Any) -> None:
        _audits.append(Audit(scheduler, mode, Path(folder)))

    def before_batch(_scheduler: Any, batch: Any, *_: Any, **__: Any) -> None:
        _audits[0].forwards.begin(batch)

    def after_forward(_result: Any, _runner: Any, forward: Any, *_: Any, **__: Any) -> None:
        if _audits:  # none while the engine starts
            _audits[0].forwards.end(forward)

    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    forward = "sglang.srt.model_executor.model_runner.ModelRunner.forward"
    HookRegistry.register(f"{scheduler}.__init__", watch, HookType.AFTER)
    HookRegistry.register(f"{scheduler}.run_batch", before_batch, HookType.BEFORE)
    HookRegistry.register(forward, after_forward, HookType.AFTER)


def describe() -> dict[str, Any] | None:
    """What the audit of this process found; None where there is none."""
    return _audits[0].describe() if _audits else None
