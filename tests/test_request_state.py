"""What is known of a vLLM request, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm_ext.requests import RequestState, tokens_of


def make_request(tokens: list[int], **attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(prompt_token_ids=tokens, all_token_ids=tokens, **attributes)


def test_a_session_to_which_images_are_added_is_neither_matched_nor_stored_from_then_on():
    request = make_request([1, 2, 3], mm_features=[])
    tokens = tokens_of(request)
    assert tokens is not None
    state = RequestState(request, [], reads=True, writes=True, tokens=tokens)

    request.all_token_ids += [4, 5]
    state.take_in_tokens()
    assert (list(state.tokens), state.reads, state.writes) == ([1, 2, 3, 4, 5], True, True)

    request.mm_features.append("an image")
    request.all_token_ids += [9, 9, 9]
    state.take_in_tokens()
    assert (state.reads, state.writes) == (False, False)


def test_images_and_embeddings_have_no_tokens():
    assert tokens_of(make_request([1, 2], mm_features=["an image"])) is None
    assert tokens_of(make_request([1, 2], prompt_embeds=object())) is None
