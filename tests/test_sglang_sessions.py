"""What becomes of the KV of streaming sessions when a load has failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_ext.sessions import Sessions


class Cache:
    """As much of SGLang's tree cache as is looked at: which session has which KV."""

    def __init__(self, *names: str) -> None:
        slots = {name: SimpleNamespace(kv=SimpleNamespace(holds_kv=True)) for name in names}
        self.session = SimpleNamespace(slots=slots)

    def release_session(self, name: str) -> None:
        del self.session.slots[name]

    def turn(self, name: str, *, has_begun: bool) -> Any:
        """A request of a session; once it has begun it has the session's KV."""
        kv = self.session.slots[name].kv if has_begun else SimpleNamespace(holds_kv=False)
        return SimpleNamespace(session=SimpleNamespace(session_id=name), kv=kv)


@pytest.fixture
def cache() -> Cache:
    return Cache("idle", "busy")


@pytest.fixture
def sessions(cache: Cache) -> Sessions:
    return Sessions(cache)


def test_a_session_goes_on_with_its_kv(cache: Cache, sessions: Sessions) -> None:
    assert sessions.has_kv_for(cache.turn("idle", has_begun=False))
    assert sessions.has_kv_for(cache.turn("idle", has_begun=True))


def test_others_have_none(sessions: Sessions) -> None:
    new = SimpleNamespace(session=SimpleNamespace(session_id="new"), kv=None)

    assert not sessions.has_kv_for(None)
    assert not sessions.has_kv_for(SimpleNamespace(session=None))
    assert not sessions.has_kv_for(new)


def test_after_a_failure_only_what_a_turn_uses_stays(cache: Cache, sessions: Sessions) -> None:
    turn = cache.turn("busy", has_begun=True)

    sessions.doubt_all([turn])

    assert list(cache.session.slots) == ["busy"]
    assert sessions.has_kv_for(turn)


def test_the_next_turn_begins_anew_and_the_one_after_goes_on(
    cache: Cache, sessions: Sessions
) -> None:
    sessions.doubt_all([cache.turn("busy", has_begun=True)])

    assert not sessions.has_kv_for(cache.turn("busy", has_begun=False))
    assert "busy" not in cache.session.slots
    cache.session = Cache("busy").session
    assert sessions.has_kv_for(cache.turn("busy", has_begun=False))
