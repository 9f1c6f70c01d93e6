"""radixkv: KV caches outside the GPU, found by a radix tree over token ids."""

from radixkv import _built as _built
from radixkv.cache import KVCache
from radixkv.commands import (
    Clear,
    Command,
    Completion,
    CompletionStatus,
    DeviceSlots,
    EngineSlots,
    Fetch,
    Load,
    Plant,
    SlotSource,
    Spill,
    Store,
)
from radixkv.config import CacheConfig
from radixkv.counters import PlannerCounters
from radixkv.errors import (
    ChunkFileError,
    ConfigError,
    HandleClosedError,
    IndexFormatError,
    PinLimitError,
    RadixKVError,
    TierError,
    TierFormatError,
    TierLockedError,
    UnsupportedError,
)
from radixkv.events import ChunkRemoved, ChunkStored, take_events
from radixkv.executor import Executor
from radixkv.group import RankGroup
from radixkv.index import (
    IndexJournal,
    Match,
    PrefixHandle,
    RadixIndex,
    Subtree,
    SubtreeMark,
    SubtreeStats,
)
from radixkv.layout import EngineMemory, KVLayout, describe_arrays
from radixkv.namespace import (
    Namespace,
    common_identity,
    find_model,
    last_change_s,
    model_identity,
)
from radixkv.planner import Planner
from radixkv.prefetch import Prefetch
from radixkv.recall import IndexKeeper, keep_index, recall
from radixkv.remote_url import parse_remote
from radixkv.restore import inspect_ranks
from radixkv.ticket import Ticket
from radixkv.ticks import RateMeter, Rates, TickRecord, TickRow
from radixkv.transplant import Transplanted
from radixkv.watch import serve_status

__all__ = [
    "CacheConfig",
    "ChunkFileError",
    "ChunkRemoved",
    "ChunkStored",
    "Clear",
    "Command",
    "Completion",
    "CompletionStatus",
    "ConfigError",
    "DeviceSlots",
    "EngineMemory",
    "EngineSlots",
    "Executor",
    "Fetch",
    "HandleClosedError",
    "IndexFormatError",
    "IndexJournal",
    "IndexKeeper",
    "KVCache",
    "KVLayout",
    "Load",
    "Match",
    "Namespace",
    "PinLimitError",
    "Planner",
    "PlannerCounters",
    "Plant",
    "Prefetch",
    "PrefixHandle",
    "RadixIndex",
    "RadixKVError",
    "RankGroup",
    "RateMeter",
    "Rates",
    "SlotSource",
    "Spill",
    "Store",
    "Subtree",
    "SubtreeMark",
    "SubtreeStats",
    "TickRecord",
    "TickRow",
    "Ticket",
    "TierError",
    "TierFormatError",
    "TierLockedError",
    "Transplanted",
    "UnsupportedError",
    "common_identity",
    "describe_arrays",
    "find_model",
    "inspect_ranks",
    "keep_index",
    "last_change_s",
    "model_identity",
    "parse_remote",
    "recall",
    "serve_status",
    "take_events",
]
