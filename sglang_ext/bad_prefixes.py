"""Prefixes whose KV on the device is bad, because it could not be loaded (SGLang 0.5.21 and later).

SGLang's tree has no way to remove one node while a request holds it. So whoever would come to such
a node is told that the device's hit ends before it, and may put nothing into the tree meanwhile,
since SGLang would merge it with what is bad. When its readers have ended, the node is evicted, and
with it all that is idle on the device, for SGLang cannot be asked for one. Memory has most of that
still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang_ext.requests import tree_name


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens whose way through the tree leads to the slots of one load.

    Attributes:
        name: The extra key and salt, as of `tree_name`.
        tokens: From the first token of the prompt to the end of the load's first page.
        first: Position of the load's first token.
    """

    name: tuple[Any, Any]
    tokens: Any
    first: int

    @staticmethod
    def of(key: Any, first: int, page_size: int) -> Span:
        """Of a load that begins at `first`, where `key` has what is loaded."""
        return Span(tree_name(key), key.token_ids[: first + page_size], first)

    def is_on_way_of(self, key: Any) -> bool:
        """Whether a match of one of SGLang's keys would come to those slots."""
        return (
            len(key) >= len(self.tokens)
            and tree_name(key) == self.name
            and self._begins(key.token_ids)
        )

    def may_be_read_by(self, req: Any) -> bool:
        """Whether a running request has such a prefix.

        One that computed it itself counts too: what it has may have been merged with this.
        """
        return (
            req.kv.holds_kv
            and tree_name(req) == self.name
            and self._begins(req.full_untruncated_fill_ids)
        )

    def _begins(self, token_ids: Any) -> bool:
        """Whether these tokens begin with the span's. The page at its end is compared first: every
        request that computed is asked about every load, and most part long before that page.
        """
        length = len(self.tokens)
        if token_ids[self.first : length] != self.tokens[self.first :]:
            return False
        is_same: bool = token_ids[:length] == self.tokens
        return is_same
