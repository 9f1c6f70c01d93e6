"""Mooncake's client in trouble: what it throws costs hits, not the thread that it is called on."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from radixkv.remote_url import MooncakeUrl, parse_remote
from radixkv.tiers import mooncake

PATIENCE_S = 20.0


class Store:
    """Throws what `troubles` has, one a call."""

    def __init__(self, troubles: list[str]) -> None:
        self._troubles = troubles

    def setup(self, *_: object) -> int:
        return self._answer()

    def is_exist(self, _: str) -> int:
        return self._answer()

    def register_buffer(self, *_: object) -> int:
        return 0

    def close(self) -> None: ...

    def _answer(self) -> int:
        if self._troubles:
            raise RuntimeError(self._troubles.pop())
        return 0


def wait_until_it_serves(tier: mooncake.MooncakeTier) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not tier.health[0]:
        assert time.monotonic() < deadline, tier.health
        time.sleep(0.01)


def test_a_client_that_throws_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    url = parse_remote("mooncake://127.0.0.1:1")
    assert isinstance(url, MooncakeUrl)
    troubles = ["no memory"]
    module = SimpleNamespace(MooncakeDistributedStore=lambda: Store(troubles))
    monkeypatch.setattr(mooncake, "import_store", lambda: module)
    monkeypatch.setattr(mooncake, "start_engine", lambda _: None)
    monkeypatch.setattr(mooncake.MooncakeTier, "_can_set_up", lambda _: True)
    pool = np.zeros(4096, np.uint8)

    tier = mooncake.MooncakeTier(url, None, (pool.ctypes.data, pool.nbytes), 16, 4096)
    try:
        wait_until_it_serves(tier)
        troubles.append("no link")
        tier.cut_off("as if a call had failed")
        wait_until_it_serves(tier)

        assert not troubles
    finally:
        tier.close(0)
