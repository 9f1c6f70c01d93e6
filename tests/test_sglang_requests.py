"""Which requests of SGLang share a tree."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from radixkv import Namespace, RadixIndex
from sglang_ext.requests import RequestState, RequestTrees, era_of_kv, set_state

BASE = Namespace("model", "layout")


def key(extra_key: str | None = None, cache_salt: str | None = None) -> Any:
    """As much of SGLang's `RadixKey` as is looked at."""
    return SimpleNamespace(extra_key=extra_key, cache_salt=cache_salt)


def test_a_tree_is_shared_by_what_has_key_and_salt_in_common() -> None:
    index = RadixIndex()
    trees = RequestTrees(BASE, lambda namespace: index.namespace(namespace.digest()))
    keys = [key(), key("a"), key(None, "a"), key("a", "b"), key("b", "a")]

    found = [trees.of(each) for each in keys]

    assert len(set(found)) == len(keys)
    assert found[0] == index.namespace(BASE.digest()) == trees.of(key(None, ""))
    assert [trees.of(each) for each in keys] == found


def test_what_an_adapter_is_made_of_parts_requests_of_the_same_name() -> None:
    index = RadixIndex()
    trees = RequestTrees(BASE, lambda namespace: index.namespace(namespace.digest()))
    name = key("the adapter's id")

    found = [trees.of(name), trees.of(name, "first"), trees.of(name, "second")]

    assert len(set(found)) == len(found)
    assert trees.of(name, "first") == found[1]


def test_salts_without_end_are_not_all_remembered_and_keep_their_trees() -> None:
    index = RadixIndex()
    num_asked = 0

    def find(namespace: Namespace) -> int:
        nonlocal num_asked
        num_asked += 1
        return index.namespace(namespace.digest())

    trees = RequestTrees(BASE, find)
    salts = [f"user {number}" for number in range(10_000)]

    found = [trees.of(key(None, salt)) for salt in salts]
    again = [trees.of(key(None, salt)) for salt in reversed(salts)]

    assert again[::-1] == found
    assert len(salts) < num_asked < 2 * len(salts)


@pytest.mark.parametrize("place", ["request", "kv"])
def test_a_request_that_goes_on_keeps_the_weights_it_began_with(place: str) -> None:
    slots = SimpleNamespace(req_pool_idx=3)
    req = slots if place == "request" else SimpleNamespace(kv=slots)
    set_state(req, RequestState(key(), tree=1, weights_era=4))

    assert era_of_kv(req, 5) == 4
    slots.req_pool_idx = None  # taken back: it is computed anew
    assert era_of_kv(req, 5) == 5


def test_a_request_that_was_never_matched_begins_with_todays_weights() -> None:
    assert era_of_kv(SimpleNamespace(kv=None), 5) == 5
