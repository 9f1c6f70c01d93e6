"""What is known of a request between the calls that vLLM makes about it."""

from __future__ import annotations

import json
import logging
import sys
from array import array
from dataclasses import dataclass, field
from typing import Any

from radixkv import Planner, Prefetch

logger = logging.getLogger(__name__)

_KEY = "radixkv"
_COMPLETE = frozenset({"FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED"})


@dataclass(slots=True)
class GroupState:
    """What is known of a request's KV in one group of layers.

    Attributes:
        tree: The namespace that it is matched and stored in.
        window: Tokens that the next one attends to, itself among them; None for all.
        blocks: Its blocks on the device, in order. vLLM takes back those that have left the window.
        first_held: Position from which on the blocks are still its own.
        stored_tokens: How far stores have been asked for.
        prefetch: Under way while the request waits in the queue.
        memory_end: Where what memory had ended when its prefetch began, if there was one.
        disk_end: Where what comes from disk ends, and what comes from remote servers begins.
    """

    tree: int
    window: int | None = None
    blocks: list[int] = field(default_factory=list)
    first_held: int = 0
    stored_tokens: int = 0
    prefetch: Prefetch | None = None
    memory_end: int = sys.maxsize
    disk_end: int = sys.maxsize

    def is_coming(self, num_tokens: int) -> bool:
        """Whether memory may soon have more than the first so many tokens."""
        return self.prefetch is not None and self.prefetch.may_reach_beyond(num_tokens)

    def held_until(self, block_tokens: int) -> int:
        """Tokens after which another block has left the window."""
        if self.window is None:
            return sys.maxsize
        return self.first_held + block_tokens + self.window - 1

    def needed_from(self, num_tokens: int, block_tokens: int) -> int:
        """Where the first block begins that the token after so many attends to."""
        if self.window is None:
            return 0
        return max(0, num_tokens - self.window + 1) // block_tokens * block_tokens


@dataclass(slots=True)
class RequestState:
    """One request whose KV follows from its token ids.

    Attributes:
        request: vLLM's.
        groups: Its KV, one for each group of layers.
        reads: Whether it may be served from the cache.
        writes: Whether it may be stored.
        tokens: Its token ids as far as they are known, converted once.
        admission: Number of its admission, the recency of what it uses; 0 before it.
        local_tokens: What the device had when it was last matched.
        due: Tokens that must have been computed before it needs to be looked at again.
        computed_tokens: Known ones, whose KV had been computed when it was last looked at.
        joins_at_once: Whether the batch waits for its load, not the request for a later batch.
    """

    request: Any
    groups: list[GroupState]
    reads: bool
    writes: bool
    tokens: array[int]
    admission: int = 0
    local_tokens: int = 0
    due: int = 0
    computed_tokens: int = 0
    joins_at_once: bool = False

    def admit(self, planner: Planner) -> int:
        """The number of its admission, from now on the same."""
        if not self.admission:
            self.admission = planner.new_admission()
        return self.admission

    def take_in_tokens(self) -> None:
        """Convert what was decoded, or added to a session, since the last call."""
        if not _is_told_by_tokens(self.request):
            self.reads = self.writes = False
        self.tokens.extend(self.request.all_token_ids[len(self.tokens) :])

    def hit_sources(self, num_external_tokens: int) -> dict[str, int]:
        """Of the tokens that are loaded beyond what the device has, which tier had them, in the
        names of vLLM's `CacheHitSource`: it has none for a remote server.
        """
        first, last = self.local_tokens, self.local_tokens + num_external_tokens
        memory_end = min(max(first, min(group.memory_end for group in self.groups)), last)
        disk_end = min(max(memory_end, min(group.disk_end for group in self.groups)), last)
        found = {
            "host": memory_end - first,
            "disk": disk_end - memory_end,
            "external_unspecified": last - disk_end,
        }
        return {source: count for source, count in found.items() if count}

    @property
    def is_running(self) -> bool:
        """Whether it is in the batch, so that its blocks are those of the last plan."""
        return bool(self.request.status.name == "RUNNING")

    @property
    def is_complete(self) -> bool:
        """Whether it ended well: what it computed is what the model says."""
        return self.request.status.name in _COMPLETE

    def is_due_within(self, num_tokens: int) -> bool:
        """Whether it is due before it needs blocks for more tokens. With windows, also just then:
        vLLM takes back what has left them when it looks for such blocks, and may find none."""
        return self.due < num_tokens or (
            self.due == num_tokens and any(group.window is not None for group in self.groups)
        )

    def without_placeholders(self, num_computed: int) -> int:
        """`num_computed` less the tokens that are being decoded, whose ids nobody knows yet."""
        return num_computed - int(getattr(self.request, "num_output_placeholders", 0))

    def known_tokens(self, num_computed: int) -> int:
        """Of the first `num_computed`, those whose ids are known."""
        return max(0, min(self.without_placeholders(num_computed), len(self.tokens)))


def tokens_of(request: Any) -> array[int] | None:
    """Token ids from which the KV follows; None where they do not say it all.

    Images stand in the prompt as placeholders, embeddings in place of tokens: neither says what was
    computed, so such requests are neither matched nor stored.
    """
    if request.prompt_token_ids is None or not _is_told_by_tokens(request):
        return None
    try:
        return array("I", request.all_token_ids[:])
    except (OverflowError, TypeError):
        return None


def _is_told_by_tokens(request: Any) -> bool:
    has_images = bool(getattr(request, "mm_features", None))
    return not has_images and getattr(request, "prompt_embeds", None) is None


def wishes_of(request: Any) -> tuple[bool, bool]:
    """Whether a request may be read, and whether it may be stored.

    vLLM may want its prompt to be computed; the caller says `kv_transfer_params: {"radixkv":
    {"read": false, "write": false}}`. What cannot be understood keeps it out: that is what such
    words are for.
    """
    wishes = (getattr(request, "kv_transfer_params", None) or {}).get(_KEY)
    if wishes is None:
        wishes = {}
    if not _are_understood(wishes):
        logger.warning(
            "request %s: kv_transfer_params: %s: expected read and write, each true or false, "
            "got %r: it is neither matched nor stored",
            request.request_id,
            _KEY,
            wishes,
        )
        return False, False
    skips = bool(getattr(request, "skip_reading_prefix_cache", None))
    return not skips and wishes.get("read", True), wishes.get("write", True)


def _are_understood(wishes: object) -> bool:
    return isinstance(wishes, dict) and all(
        name in ("read", "write") and isinstance(wish, bool) for name, wish in wishes.items()
    )


def request_key(request: Any) -> str:
    """What a request shares with its like only; empty for all that name nothing."""
    salt = getattr(request, "cache_salt", None)
    return "" if salt is None else json.dumps(["cache_salt", salt])


def adapter_of(request: Any) -> int | None:
    """The number of its LoRA adapter, by which vLLM goes; None without one."""
    lora = getattr(request, "lora_request", None)
    return None if lora is None else int(lora.lora_int_id)
