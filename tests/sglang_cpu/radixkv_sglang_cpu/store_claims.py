"""Compares what stores say of the KV that they read with what SGLang has heard.

A store that says `is_computed` does not wait for the model on a GPU. So none of its slots may be
written by a forward whose end SGLang has not waited for, nor by a load that is under way. On a CPU
forwards end when they are launched; what is followed here is what SGLang knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any


class StoreClaims:
    """Which slots are being written as far as is known, and what stores said of theirs.

    Args:
        executor: radixkv's, whose commands are followed.
    """

    def __init__(self, executor: Any) -> None:
        self._counts: Counter[str] = Counter()
        self._too_early: list[str] = []
        self._written: dict[object, frozenset[int]] = {}  # by forward or load
        self._watch(executor)

    def begin(self, writer: object, slots: Iterable[int]) -> None:
        """These slots are written from now on."""
        self._written[writer] = frozenset(slots)

    def end(self, writer: object) -> None:
        """It is known that they have been written."""
        self._written.pop(writer, None)

    def _watch(self, executor: Any) -> None:
        submit, poll = executor.submit, executor.poll

        def watched_submit(command: Any) -> None:
            kind = type(command).__name__
            if kind == "Store":
                self._note(command)
            elif kind == "Load":
                self.begin(("load", command.command_id), command.slots.tolist())
            submit(command)

        def watched_poll(*args: Any) -> Any:
            completions = poll(*args)
            for completion in completions:
                self.end(("load", completion.command_id))
            return completions

        executor.submit, executor.poll = watched_submit, watched_poll

    def _note(self, store: Any) -> None:
        slots = store.slots.tolist()
        writers = [writer for writer, written in self._written.items() if written & set(slots)]
        said = "computed" if store.is_computed else "fenced"
        self._counts[f"{said}_{'unheard' if writers else 'heard'}"] += 1
        if store.is_computed and writers:
            self._too_early.append(f"store {store.command_id} of {len(slots)} slots: {writers}")

    def describe(self) -> dict[str, Any]:
        """How many stores said what, and which of them said it too early."""
        return {"stores": dict(self._counts), "too_early": self._too_early}


class _HeardEvent:
    """A result's event; who waits for it has heard of the forward's end."""

    def __init__(self, event: Any, on_heard: Callable[[], None]) -> None:
        self._event = event
        self._on_heard = on_heard

    def synchronize(self) -> None:
        self._event.synchronize()
        self._on_heard()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._event, name)


class ForwardsHeard:
    """Tells claims about a scheduler's forwards, from their launch until SGLang waits for them."""

    def __init__(self, claims: StoreClaims) -> None:
        self._claims = claims
        self._num_launched = 0
        self._unheard: dict[int, str] = {}  # by the identity of the result
        self._slots: list[int] = []

    def add_forward(self, forward: Any) -> None:
        self._slots += forward.out_cache_loc.tolist()

    def launched(self, result: Any) -> None:
        """A batch was launched, and this is to be its result."""
        self._num_launched += 1
        name = f"forward {self._num_launched}"
        self._claims.begin(name, self._slots)
        self._slots = []
        self._unheard[id(result)] = name
        if result.copy_done is not None:
            result.copy_done = _HeardEvent(result.copy_done, lambda: self.heard(result))

    def taken_up(self, result: Any) -> None:
        """SGLang reads a result. One without an event is waited for by reading it."""
        if result.copy_done is None:
            self.heard(result)

    def heard(self, result: Any) -> None:
        self._claims.end(self._unheard.pop(id(result), None))


_forwards: list[ForwardsHeard] = []  # of this process: one, or none


def watch(kv: Any) -> StoreClaims:
    """Follows radixkv's stores and the scheduler's forwards from now on."""
    claims = StoreClaims(kv.executor)
    _forwards.append(ForwardsHeard(claims))
    return claims


def install() -> None:
    """Hooks SGLang's forwards; nothing is done where nobody watches."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    def before_forward(_runner: Any, forward: Any, *_: Any, **__: Any) -> None:
        if _forwards and forward.out_cache_loc is not None:
            _forwards[0].add_forward(forward)

    def after_launch(result: Any, *_: Any, **__: Any) -> None:
        if _forwards:
            _forwards[0].launched(result)

    def before_result(_scheduler: Any, _batch: Any, result: Any, *_: Any, **__: Any) -> None:
        if _forwards:
            _forwards[0].taken_up(result)

    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    forward = "sglang.srt.model_executor.model_runner.ModelRunner.forward"
    HookRegistry.register(forward, before_forward, HookType.BEFORE)
    HookRegistry.register(f"{scheduler}.run_batch", after_launch, HookType.AFTER)
    HookRegistry.register(f"{scheduler}.process_batch_result", before_result, HookType.BEFORE)
