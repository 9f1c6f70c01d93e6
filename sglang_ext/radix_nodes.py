"""Nodes of SGLang's `RadixCache` (0.5.15 to 0.5.20): who reads one, and hiding one that is bad."""

from __future__ import annotations

from typing import Any

from sglang.srt.mem_cache.radix_cache import RadixKey, TreeNode

from sglang_ext.requests import slots_of


def reads(req: Any, top: TreeNode) -> bool:
    """Whether a request runs, on top of a node's KV."""
    is_admitted = slots_of(req).req_pool_idx is not None
    return is_admitted and is_at_or_below(req.last_node, top)


def is_at_or_below(node: TreeNode | None, top: TreeNode) -> bool:
    """Whether the way from a node up to the root comes to `top`."""
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
