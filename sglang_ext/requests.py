"""What is known of a request between the calls that SGLang makes about it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from radixkv import Namespace, Prefetch

_ATTRIBUTE = "radixkv_state"
_MOST_TREES = 4096  # that are remembered by name


@dataclass(slots=True)
class RequestState:
    """One request.

    Attributes:
        key: SGLang's key of the last match: tokens, limit, extra key and salt.
        tree: The namespace that it is matched and stored in.
        weights_era: Which weights it was matched under; KV of two eras is never mixed.
        admission: Number of its admission, the recency of what it uses; 0 before it.
        prefetch: Under way while it waits in the queue.
        memory_tokens_before: Tokens in memory before its prefetch brought more; None without one.
    """

    key: Any
    tree: int
    weights_era: int
    admission: int = 0
    prefetch: Prefetch | None = None
    memory_tokens_before: int | None = None


def state_of(req: Any) -> RequestState | None:
    """The state kept with a request since its last match; None if it is not served."""
    state: RequestState | None = getattr(req, _ATTRIBUTE, None)
    return state


def set_state(req: Any, state: RequestState | None) -> None:
    """Keep the state with the request itself, so that it ends with it."""
    setattr(req, _ATTRIBUTE, state)


def is_served(req: Any, key: Any) -> bool:
    """Whether a request's KV follows from its token ids alone.

    An image's placeholder tokens, embeddings given in place of tokens, and overridden embeddings do
    not say what was computed, so such requests are neither matched nor stored.
    """
    return (
        len(key) > 0
        and not key.is_bigram
        and getattr(req, "multimodal_inputs", None) is None
        and getattr(req, "input_embeds", None) is None
        and getattr(req, "positional_embed_overrides", None) is None
        and getattr(req, "session", None) is None
    )


def tree_name(source: Any) -> tuple[Any, Any]:
    """The extra key (LoRA is part of it) and the cache salt of one of SGLang's keys or requests.

    Where they differ nothing is shared, on the device or below it.
    """
    return source.extra_key, getattr(source, "cache_salt", None) or None


class RequestTrees:
    """The trees of requests: one for all that may share KV.

    There may be as many salts as users: those of late are remembered, and others found again.

    Args:
        base: The engine's namespace, to which a request adds its name.
        find: Finds the tree of a namespace, or makes it.
    """

    def __init__(self, base: Namespace, find: Callable[[Namespace], int]) -> None:
        @functools.lru_cache(_MOST_TREES)
        def find_by_name(*name: Any) -> int:
            request_key = "" if name == (None, None) else json.dumps(name)
            return find(dataclasses.replace(base, request_key=request_key))

        self._find_by_name = find_by_name

    def of(self, source: Any, adapter: str | None = None) -> int:
        """The tree of one of SGLang's keys or requests.

        Args:
            source: A key or a request.
            adapter: What its LoRA adapter is made of, where the adapter's id does not say.
        """
        return self._find_by_name(*tree_name(source), *([] if adapter is None else [adapter]))


def rid_of(request: Any) -> str:
    """The id of a request that SGLang names by its id, or by a handle that has it (from 0.5.20)."""
    rid: str = getattr(request, "rid", request)
    return rid


def era_of_kv(req: Any, era: int) -> int:
    """Under which weights the KV of a request begins.

    Args:
        req: A request that is matched.
        era: Of today's weights. A request that has slots goes on from what it computed before.
    """
    state = state_of(req)
    has_slots = getattr(slots_of(req), "req_pool_idx", None) is not None
    return state.weights_era if state is not None and has_slots else era


def slots_of(req: Any) -> Any:
    """What says which slots a request has: the request itself, or its `kv` (from 0.5.20)."""
    return req if hasattr(req, "req_pool_idx") else req.kv
