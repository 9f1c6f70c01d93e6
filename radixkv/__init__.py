"""radixkv: KV caches outside the GPU, found by a radix tree over token ids."""

from radixkv.cache import KVCache, Ticket
from radixkv.commands import (
    Clear,
    Command,
    Completion,
    CompletionStatus,
    Fetch,
    Load,
    Spill,
    Store,
)
from radixkv.config import CacheConfig
from radixkv.errors import (
    ConfigError,
    HandleClosedError,
    RadixKVError,
    TierError,
    TierFormatError,
    TierLockedError,
    UnsupportedError,
)
from radixkv.executor import Executor
from radixkv.group import RankGroup
from radixkv.index import Match, PrefixHandle, RadixIndex
from radixkv.layout import EngineMemory, KVLayout, describe_arrays
from radixkv.namespace import Namespace, model_identity
from radixkv.planner import Planner, Prefetch, SlotSource
from radixkv.ticks import TickRow

__all__ = [
    "CacheConfig",
    "Clear",
    "Command",
    "Completion",
    "CompletionStatus",
    "ConfigError",
    "EngineMemory",
    "Executor",
    "Fetch",
    "HandleClosedError",
    "KVCache",
    "KVLayout",
    "Load",
    "Match",
    "Namespace",
    "Planner",
    "Prefetch",
    "PrefixHandle",
    "RadixIndex",
    "RadixKVError",
    "RankGroup",
    "SlotSource",
    "Spill",
    "Store",
    "TickRow",
    "Ticket",
    "TierError",
    "TierFormatError",
    "TierLockedError",
    "UnsupportedError",
    "describe_arrays",
    "model_identity",
]
