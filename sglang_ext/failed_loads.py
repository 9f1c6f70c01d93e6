"""What a failed load leaves behind in SGLang: a node without its KV, and requests that read it.

The node's slots were promised at admission, so its readers run already. They end with an error, and
neither what they read nor what they computed on top of it may be found by others, on any tier.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from sglang.srt.mem_cache.radix_cache import RadixKey, TreeNode

from sglang_ext.requests import slots_of

_POISONED = "radixkv_poisoned"


def is_poisoned(req: Any) -> bool:
    """Whether a running request read KV that was not loaded: nothing of it may be kept."""
    return bool(getattr(req, _POISONED, False))


def forget_poison(req: Any) -> None:
    """A request has given back its slots; if it comes again, it begins anew."""
    setattr(req, _POISONED, False)


def end_readers(requests: Iterable[Any], top: TreeNode) -> None:
    """End what runs and reads a node, or what lies below it, with an error at its next result."""
    for req in requests:
        if not reads(req, top):
            continue
        setattr(req, _POISONED, True)
        if req.finished():  # just now, and the answer is not out yet
            req.finished_reason = _error()
        else:
            req.to_finish = _error()


def reads(req: Any, top: TreeNode) -> bool:
    """Whether a request runs, on top of a node's KV."""
    is_admitted = slots_of(req).req_pool_idx is not None
    node = req.last_node if is_admitted else None
    while node is not None and node is not top:
        node = node.parent
    return node is not None


def upper_end(node: TreeNode, num_tokens: int) -> TreeNode:
    """Where the last `num_tokens` down to a node begin: the node itself, unless it was split."""
    found = len(node.key)
    while found < num_tokens:
        node = node.parent
        found += len(node.key)
    return node


def make_unreachable(node: TreeNode, page_size: int, name: str) -> None:
    """Rename the way to a node: no request finds it, and it is evicted when unlocked."""
    children = node.parent.children
    del children[node.key.child_key(page_size)]
    node.key = RadixKey(node.key.token_ids, name)
    children[node.key.child_key(page_size)] = node


def _error() -> Any:
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    return FINISH_ABORT(
        "radixkv: the KV of a cached prefix could not be loaded; send the request again",
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "InternalServerError",
    )
