"""How long calls take on a thread that must not wait, less the time that it waited for a CPU."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

# The longest that a call may take on the engine's scheduler thread. A machine that others share
# takes CPUs away and tells nobody, so `make test` asks only that no call waited for a server that
# hangs, which would be for 2 s and more there.
CALL_LIMIT_S = 0.02
NO_WAIT_S = 1.0

Value = TypeVar("Value")

# Unlike os.pread it keeps the GIL: to give it away and wait for it again would be part of the call.
_pread = ctypes.PyDLL(None).pread


class CallTimer:
    """Makes calls on one thread, and keeps the longest time that one took.

    What counts is time in which the call ran or waited for something, a lock, the network: on a
    busy machine the kernel also lets it wait for a CPU, which it says in `schedstat`. Where other
    threads run Python, a call may wait for one that has the GIL and waits for a CPU.

    Args:
        others: Native ids of threads that run Python beside this one, and that end after this.

    Attributes:
        longest_s: The longest so far.
        longest_name: What was called then.
    """

    def __init__(self, others: Iterable[int] = ()) -> None:
        self.longest_s = 0.0
        self.longest_name = ""
        self._thread_id = threading.get_native_id()
        self._schedstats = [
            os.open(f"/proc/self/task/{thread_id}/schedstat", os.O_RDONLY)
            for thread_id in (self._thread_id, *others)
        ]
        self._text = ctypes.create_string_buffer(128)

    def __call__(self, name: str, call: Callable[[], Value]) -> Value:
        begun_s = self._now_s()
        try:
            return call()
        finally:
            took_s = self._now_s() - begun_s
            if took_s > self.longest_s:
                self.longest_s, self.longest_name = took_s, name

    def take_longest(self) -> tuple[str, float]:
        """The name of the longest call and its seconds; from now on another is."""
        longest = self.longest_name, self.longest_s
        self.longest_name, self.longest_s = "", 0.0
        return longest

    def close(self) -> None:
        """The end of it."""
        while self._schedstats:
            os.close(self._schedstats.pop())

    def _now_s(self) -> float:
        """Time, less what has been waited for a CPU so far."""
        assert threading.get_native_id() == self._thread_id
        own, *others = self._schedstats
        while True:
            waited_ns = _waited_ns(own, self._text)
            others_ns = sum(_waited_ns(other, self._text) for other in others)
            now_s = time.monotonic()
            # Had it lost its CPU in between, one would have that wait and the other not.
            if _waited_ns(own, self._text) == waited_ns:
                return now_s - (waited_ns + others_ns) / 1e9


def _waited_ns(schedstat: int, text: ctypes.Array[ctypes.c_char]) -> int:
    """How long a thread has waited for a CPU so far."""
    _pread(schedstat, text, len(text), 0)
    return int(text.value.split()[1])
