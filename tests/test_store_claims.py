"""The check inside SGLang that no store says too early that its KV is there, without SGLang."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from radixkv_sglang_cpu.store_claims import ForwardsHeard, StoreClaims
from test_cache import Engine, open_cache, prompt

from radixkv import KVCache, Load

SLOTS = np.arange(48, dtype=np.int64)
TOKENS = prompt(1, len(SLOTS))


class Event:
    """What SGLang waits for before it reads a result."""

    def synchronize(self) -> None: ...


class Result:
    """Of a batch; without an event where SGLang does not schedule ahead."""

    def __init__(self, *, has_event: bool) -> None:
        self.copy_done = Event() if has_event else None


class Forward:
    """One that writes some of the slots that the test stores."""

    out_cache_loc = SLOTS[20:30]


@pytest.fixture
def cache() -> Iterator[KVCache]:
    with open_cache(Engine()) as cache:
        yield cache


def store(cache: KVCache, *, is_computed: bool) -> None:
    assert cache.store(TOKENS, SLOTS, is_computed=is_computed).wait()


@pytest.mark.parametrize("has_event", [True, False])
def test_a_claim_is_too_early_until_the_forward_is_heard_of(cache, has_event):
    claims = StoreClaims(cache.executor)
    forwards = ForwardsHeard(claims)
    result = Result(has_event=has_event)
    forwards.add_forward(Forward())
    forwards.launched(result)

    store(cache, is_computed=True)
    cache.clear()
    forwards.taken_up(result)
    if has_event:
        result.copy_done.synchronize()
    store(cache, is_computed=True)

    found = claims.describe()
    assert found["stores"] == {"computed_unheard": 1, "computed_heard": 1}
    assert found["too_early"] == ["store 1 of 48 slots: ['forward 1']"]


def test_a_result_that_is_taken_up_is_not_heard_of_before_its_event(cache):
    claims = StoreClaims(cache.executor)
    forwards = ForwardsHeard(claims)
    result = Result(has_event=True)
    forwards.add_forward(Forward())
    forwards.launched(result)

    forwards.taken_up(result)
    store(cache, is_computed=True)

    assert claims.describe()["stores"] == {"computed_unheard": 1}


def test_a_store_that_claims_nothing_is_never_too_early(cache):
    claims = StoreClaims(cache.executor)
    claims.begin("forward", SLOTS.tolist())

    store(cache, is_computed=False)

    assert claims.describe() == {"stores": {"fenced_unheard": 1}, "too_early": []}


def test_a_claim_on_slots_under_load_is_too_early(cache):
    store(cache, is_computed=True)
    claims = StoreClaims(cache.executor)
    cache.executor.inject_fault(Load, fail=False, delay_s=0.2)
    with cache.acquire(TOKENS) as handle:
        load = cache.load(handle, SLOTS)
    assert load.wait_layer(cache.executor.layout.num_layers - 1)  # there, and not heard of yet

    other = cache.store(prompt(2, len(SLOTS)), SLOTS, is_computed=True)
    assert load.wait()
    assert other.wait()
    store_after = cache.store(prompt(3, len(SLOTS)), SLOTS, is_computed=True)

    assert store_after.wait()
    assert claims.describe()["stores"] == {"computed_unheard": 1, "computed_heard": 1}
