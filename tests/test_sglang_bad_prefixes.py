"""Who would come to KV on SGLang's device that could not be loaded."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_ext.bad_prefixes import Span

FIRST, PAGE = 8, 4
TOKENS = list(range(100, 120))


@dataclass
class Key:
    """As much of SGLang's `RadixKey` as is looked at."""

    tokens: list[int]
    extra_key: str | None = None
    cache_salt: str | None = None
    token_ids: array[int] = field(init=False)

    def __post_init__(self) -> None:
        self.token_ids = array("q", self.tokens)

    def __len__(self) -> int:
        return len(self.token_ids)


def running(tokens: list[int], *, is_admitted: bool = True, **name: Any) -> SimpleNamespace:
    """As much of a request of SGLang's as is looked at."""
    kv = SimpleNamespace(holds_kv=is_admitted)
    ids = array("q", tokens)
    return SimpleNamespace(
        **{"extra_key": None, "cache_salt": None} | name, kv=kv, full_untruncated_fill_ids=ids
    )


@pytest.fixture
def span() -> Span:
    return Span.of(Key(TOKENS), FIRST, PAGE)


def test_a_longer_key_comes_to_it_and_so_does_one_that_parts_behind_its_first_page(
    span: Span,
) -> None:
    parts_later = [*TOKENS[: FIRST + PAGE], 7, 7]

    assert span.is_on_way_of(Key([*TOKENS, 1, 2]))
    assert span.is_on_way_of(Key(parts_later))
    assert span.may_be_read_by(running(parts_later))


def test_what_ends_or_parts_before_its_first_page_is_full_does_not(span: Span) -> None:
    parts = [*TOKENS[: FIRST + PAGE - 1], 7, 7]

    for tokens in (TOKENS[: FIRST + PAGE - 1], parts):
        assert not span.is_on_way_of(Key(tokens))
        assert not span.may_be_read_by(running(tokens))


def test_what_has_the_same_page_behind_another_beginning_does_not(span: Span) -> None:
    begins_otherwise = [7, *TOKENS[1:]]

    assert not span.is_on_way_of(Key(begins_otherwise))
    assert not span.may_be_read_by(running(begins_otherwise))


@pytest.mark.parametrize("name", [{"extra_key": "lora"}, {"cache_salt": "tenant"}])
def test_another_key_or_salt_has_a_tree_of_its_own(span: Span, name: dict[str, str]) -> None:
    assert not span.is_on_way_of(Key(TOKENS, **name))
    assert not span.may_be_read_by(running(TOKENS, **name))


def test_a_request_that_waits_reads_nothing(span: Span) -> None:
    assert not span.may_be_read_by(running(TOKENS, is_admitted=False))
