"""Streaming sessions after a load has failed (SGLang 0.5.21 and later).

SGLang keeps a session's KV between its turns, when no request has it. That may have been merged
with slots that a load was to fill. Whose it was is not known here, so every session computes its
next turn from the first token on, as SGLang does after a turn that was aborted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Sessions:
    """The streaming sessions of one tree cache.

    Args:
        cache: SGLang's `UnifiedRadixCache`.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._doubted: list[Any] = []  # slots whose KV is lent to a request

    def has_kv_for(self, req: Any) -> bool:
        """Whether a request goes on with its session's KV, whatever the tree has.

        If that is in doubt, and the request has not begun to use it, it is given back first.
        """
        session: Any = getattr(req, "session", None)
        if session is None:
            return False
        slot = self._slots.get(session.session_id)
        if slot is None or not slot.kv.holds_kv:
            return False
        if slot.kv is not req.kv and any(slot is doubted for doubted in self._doubted):
            self._doubted = [other for other in self._doubted if other is not slot]
            self._cache.release_session(session.session_id)
            return False
        return True

    def doubt_all(self, requests: Iterable[Any]) -> None:
        """A load failed: give back what no request of these has, doubt the rest."""
        lent = {id(req.kv) for req in requests}
        self._doubted = [slot for slot in self._slots.values() if id(slot.kv) in lent]
        for session_id, slot in list(self._slots.items()):
            if id(slot.kv) not in lent:
                self._cache.release_session(session_id)

    @property
    def _slots(self) -> dict[str, Any]:
        slots: dict[str, Any] = self._cache.session.slots
        return slots
