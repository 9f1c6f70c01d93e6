"""radixkv: KV caches outside the GPU, found by a radix tree over token ids."""

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
from radixkv.index import RadixIndex
from radixkv.layout import EngineMemory, KVLayout
from radixkv.namespace import Namespace, model_identity

__all__ = [
    "CacheConfig",
    "Clear",
    "Command",
    "Completion",
    "CompletionStatus",
    "ConfigError",
    "EngineMemory",
    "Fetch",
    "HandleClosedError",
    "KVLayout",
    "Load",
    "Namespace",
    "RadixIndex",
    "RadixKVError",
    "Spill",
    "Store",
    "TierError",
    "TierFormatError",
    "TierLockedError",
    "UnsupportedError",
    "model_identity",
]
