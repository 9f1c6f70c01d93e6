"""
radixkv's C++ parts. Use the names in `radixkv` instead.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing

__all__: list[str] = [
    "ChunkFollower",
    "CommandKind",
    "DiskInspection",
    "DiskOptions",
    "Executor",
    "ExecutorOptions",
    "IndexJournal",
    "IndexStats",
    "KeptRuns",
    "MAX_HEAD_BYTES",
    "Match",
    "OutsideObjects",
    "PrefixHandle",
    "RadixIndex",
    "RedisEndpoint",
    "RunStats",
    "SavedIndex",
    "SubtreeMark",
    "SubtreeStats",
    "TierStats",
    "checksum",
    "disk_units_that_fit",
]

class RunStats:
    def __repr__(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_grams(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...

class KeptRuns:
    """
    Runs that are kept, by where they begin in what was asked. None lies inside another. It pins nothing.
    """
    def __len__(self) -> int: ...
    def slices(self, number: typing.SupportsInt | typing.SupportsIndex) -> numpy.ndarray:
        """
        The chunks of a run, as they are now; empty once the last of them has gone.
        """
    @property
    def first_tokens(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        Where each begins in what was asked. Shape: (num_runs,), uint32.
        """
    @property
    def num_tokens(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        Tokens of each.
        """
    @property
    def num_waiting(self) -> int:
        """
        Chunks that came so shortly before that they were not looked at.
        """
    @property
    def positions(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        Where each begins in the prompt that is kept.
        """
    @property
    def truncated(self) -> bool:
        """
        Not every place was looked at: a run may be kept longer elsewhere.
        """

class Match:
    """
    What a match found. It pins nothing.
    """
    def __repr__(self) -> str: ...
    def slices(self) -> numpy.ndarray:
        """
        The chunks of `num_tokens`, as they are now; empty once the last of them has gone.
        """
    @property
    def num_memory_tokens(self) -> int:
        """
        Longest prefix that is ready in memory.
        """
    @property
    def num_tokens(self) -> int:
        """
        Longest prefix that is ready, each chunk in memory or on disk.
        """

class PrefixHandle:
    """
    Pins what a match found until it is closed.
    """
    def __enter__(self) -> PrefixHandle: ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None: ...
    def close(self) -> None:
        """
        Ends the pin. A second call does nothing.
        """
    def slices(self) -> numpy.ndarray:
        """
        The chunks of `num_tokens`, as they are now.
        """
    @property
    def is_closed(self) -> bool: ...
    @property
    def num_memory_tokens(self) -> int:
        """
        How many of them, from the front, are ready in memory now.
        """
    @property
    def num_tokens(self) -> int:
        """
        Tokens that the handle pins.
        """

class TierStats:
    def __repr__(self) -> str: ...
    @property
    def evicted_chunks(self) -> int: ...
    @property
    def failed_chunks(self) -> int: ...
    @property
    def limbo_extents(self) -> int: ...
    @property
    def ready_chunks(self) -> int: ...
    @property
    def total_units(self) -> int: ...
    @property
    def used_units(self) -> int: ...
    @property
    def uses(self) -> int: ...
    @property
    def writing_chunks(self) -> int: ...

class IndexStats:
    def __repr__(self) -> str: ...
    @property
    def chunks(self) -> int: ...
    @property
    def disk(self) -> TierStats: ...
    @property
    def dropped_chunks(self) -> int: ...
    @property
    def marks(self) -> int: ...
    @property
    def memory(self) -> TierStats: ...
    @property
    def nodes(self) -> int: ...
    @property
    def pins(self) -> int: ...
    @property
    def spill_queue(self) -> int: ...
    @property
    def tokens(self) -> int: ...

class RadixIndex:
    def __init__(
        self,
        chunk_tokens: typing.SupportsInt | typing.SupportsIndex,
        token_bytes: typing.SupportsInt | typing.SupportsIndex,
        unit_bytes: typing.SupportsInt | typing.SupportsIndex,
        memory_bytes: typing.SupportsInt | typing.SupportsIndex | None,
        disk_bytes: typing.SupportsInt | typing.SupportsIndex,
        tail_slack: typing.SupportsInt | typing.SupportsIndex,
        policy: str,
        max_pinned: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    def acquire(
        self,
        tokens: typing.Any,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
        *,
        time: typing.SupportsInt | typing.SupportsIndex | None = None,
        limit: typing.Any = None,
        release_gil: bool = True,
    ) -> PrefixHandle:
        """
        Matches and pins what was found until the handle is closed.
        """
    def adopt_saved(self, saved: SavedIndex) -> int:
        """
        See `RadixIndex.adopt`.
        """
    def advance(
        self, now: typing.SupportsInt | typing.SupportsIndex
    ) -> tuple[numpy.ndarray, numpy.ndarray]:
        """
        Tell the index the time: pins end, and what was not used for its time to live leaves.

        What is pinned or in use stays until then. A time before the last one is ignored.

        Args:
            now: In the unit of the `time` that other calls are given.

        Returns:
            The chunks that left memory, and those that left the disk.
        """
    def check_invariants(self) -> None:
        """
        Raises RuntimeError where the index contradicts itself. Slow: for tests.
        """
    def clear_all(self) -> numpy.ndarray:
        """
        Drops everything, in every namespace; returns the chunks.
        """
    def clear_memory(self) -> int:
        """
        Everything that no pin holds leaves memory. Returns how many chunks did.
        """
    def complete_fetch(
        self,
        chunks: typing.Any,
        num_ok: typing.SupportsInt | typing.SupportsIndex,
        corrupt: bool = False,
    ) -> None:
        """
        The first `num_ok` are ready in memory; with `corrupt` the next one leaves the disk.
        """
    def complete_spill(
        self,
        chunks: typing.Any,
        num_ok: typing.SupportsInt | typing.SupportsIndex,
        *,
        retry: bool = False,
    ) -> None:
        """
        The first `num_ok` are ready on disk; the rest failed and are tried again only if `retry`.
        """
    def complete_store(
        self, chunks: typing.Any, num_ok: typing.SupportsInt | typing.SupportsIndex
    ) -> None:
        """
        The first `num_ok` chunks of a store are ready, the rest failed.
        """
    def demote(
        self, tokens: typing.Any, namespace: typing.SupportsInt | typing.SupportsIndex = 0
    ) -> int:
        """
        What begins with `tokens` and is ready on disk leaves memory, but for what a handle or a command holds. Returns how many chunks did.
        """
    def drop(
        self, tokens: typing.Any, namespace: typing.SupportsInt | typing.SupportsIndex = 0
    ) -> numpy.ndarray:
        """
        Drops every chunk whose path begins with `tokens`; returns them, parents first.
        """
    def evict(
        self, tier: str, num_bytes: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.ndarray:
        """
        Evicts leaves until their extents add up to `num_bytes`; returns what left.
        """
    def evict_for_spill(
        self, num_units: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.ndarray:
        """
        Makes room on disk for the next spill, but not where that is written below.
        """
    def evict_units(
        self, tier: str, num_units: typing.SupportsInt | typing.SupportsIndex
    ) -> numpy.ndarray:
        """
        The same, counted in units of the tier.
        """
    def find_runs(
        self,
        tokens: typing.Any,
        min_length: typing.SupportsInt | typing.SupportsIndex | None = None,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> KeptRuns:
        """
        The longest runs of `tokens` that are kept anywhere, each with one place; at least `min_length` tokens long, by default what `index_runs` was called with.
        """
    def index_runs(self, min_length: typing.SupportsInt | typing.SupportsIndex = 64) -> None:
        """
        From now on `find_runs` finds runs of at least so many tokens; a thread of its own files what is kept.
        """
    def insert(
        self,
        tokens: typing.Any,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
        *,
        time: typing.SupportsInt | typing.SupportsIndex = 0,
        release_gil: bool = True,
    ) -> int:
        """
        Reserves and completes at once, evicting as needed. Returns the number of chunks added.
        """
    def journal(self, path: bytes) -> IndexJournal:
        """
        See `RadixIndex.journal`.
        """
    def marks(self) -> list[SubtreeMark]:
        """
        All that was said about prefixes, in the order in which they were first named.
        """
    def match(
        self,
        tokens: typing.Any,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
        *,
        limit: typing.Any = None,
        release_gil: bool = True,
    ) -> Match:
        """
        Finds how far `tokens` are kept. Pins nothing and changes nothing.
        """
    def namespace(self, digest: bytes) -> int:
        """
        Finds or makes the tree of a namespace and returns its number.
        """
    def node_head(
        self,
        node: typing.SupportsInt | typing.SupportsIndex,
        most_tokens: typing.SupportsInt | typing.SupportsIndex = 8,
    ) -> tuple[int, int, numpy.typing.NDArray[numpy.uint32]]:
        """
        (position of its first token, of its end, its first tokens) of a node of a sample.
        """
    def parent_key(self, chunks: typing.Any) -> bytes:
        """
        The content key of the chunk before the first of these.
        """
    def pin(
        self,
        tokens: typing.Any,
        owner: str,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
        *,
        until: typing.SupportsInt | typing.SupportsIndex | None = None,
    ) -> None:
        """
        Keep a subtree from eviction, and what leads to it.

        No quota and no time to live pushes it out either; `drop` and `clear_…` do. What is not kept is not
        brought back. Several owners may pin the same prefix; one that pins again moves its end. A pinned
        subtree that comes to have more than `max_pinned` of a tier is evicted like others until it has not.

        Args:
            tokens: The prefix; none means the whole namespace.
            owner: Who pins, for `unpin`.
            namespace: Which tree.
            until: The pin ends with the first `advance` to this time or later. None: only with `unpin`.

        Raises:
            PinLimitError: More than `max_pinned` of a tier would be pinned.
        """
    def prefix_key(
        self, handle: PrefixHandle, namespace: typing.SupportsInt | typing.SupportsIndex = 0
    ) -> bytes:
        """
        The content key of the last chunk that the handle covers whole.
        """
    def record_events(self, most_events: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Notes from now on what a match may find; so many events wait at most.
        """
    def release_uses(self, slices: typing.Any) -> None:
        """
        Ends the uses that `use` began.
        """
    def reserve(
        self,
        tokens: typing.Any,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
        *,
        time: typing.SupportsInt | typing.SupportsIndex,
        limit: typing.Any = None,
        tail: bool = True,
        release_gil: bool = True,
    ) -> tuple[numpy.ndarray, int]:
        """
        Takes memory for the chunks of `tokens` that memory does not keep: (chunks, missing_units).
        """
    def reserve_fetch(
        self,
        handle: PrefixHandle,
        *,
        max_chunks: typing.SupportsInt | typing.SupportsIndex | None = None,
    ) -> tuple[numpy.ndarray, int]:
        """
        Takes memory for chunks of the handle that are on disk: (chunks, missing_units).
        """
    def reserve_put(self, chunks: typing.Any) -> tuple[numpy.ndarray, numpy.ndarray, bytes]:
        """
        Uses what memory still has of these chunks: (chunks, tokens, parent_key).
        """
    def reserve_spill(
        self, max_chunks: typing.SupportsInt | typing.SupportsIndex
    ) -> tuple[numpy.ndarray, numpy.ndarray, bytes, int]:
        """
        The next chunks of one path to write to disk: (chunks, tokens, digest, missing_units).
        """
    def restore(self, saved: SavedIndex) -> None:
        """
        Becomes what was saved. ValueError where it is not empty; see `open`.
        """
    def restore_disk(
        self,
        parent_index: numpy.typing.NDArray[numpy.int64],
        num_tokens: numpy.typing.NDArray[numpy.uint16],
        tokens: numpy.typing.NDArray[numpy.uint32],
        disk_offset: numpy.typing.NDArray[numpy.uint32],
        num_units: numpy.typing.NDArray[numpy.uint16],
        namespace_index: numpy.typing.NDArray[numpy.int32],
        digests: collections.abc.Sequence[bytes],
        time: numpy.typing.NDArray[numpy.uint64],
    ) -> None:
        """
        Puts the chunks of a reopened disk into the index. Parents come before their children.
        """
    def run_stats(self) -> RunStats:
        """
        Counts of what `find_runs` goes by.
        """
    def sample_chunks(
        self,
        first: typing.SupportsInt | typing.SupportsIndex,
        step: typing.SupportsInt | typing.SupportsIndex,
        count: typing.SupportsInt | typing.SupportsIndex,
    ) -> numpy.typing.NDArray[numpy.uint32]:
        """
        Some of what is kept. A row has namespace, tokens, uses, whether memory has it, and the tree's nodes above it from the root down, 0xFFFFFFFF behind the last.
        """
    def save(self, path: bytes) -> None:
        """
        See `RadixIndex.save`.
        """
    def set_priority(
        self,
        tokens: typing.Any,
        priority: typing.SupportsInt | typing.SupportsIndex | None,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None:
        """
        Say which subtrees leave before others.

        Holds for every chunk whose path begins with `tokens`, kept now or stored later, unless something
        else is said about a longer prefix of it.

        Args:
            tokens: The prefix; none means the whole namespace.
            priority: What has a lower one leaves first; 0 where nothing is said. None takes back.
            namespace: Which tree.
        """
    def set_quota(
        self,
        tokens: typing.Any,
        tier: str,
        num_bytes: typing.SupportsInt | typing.SupportsIndex | None,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None:
        """
        Limit what a subtree may have of a tier.

        A chunk is charged to the longest prefix of it that has a quota, and to no other. At the limit the
        subtree's own leaves go first; what does not fit even so is not stored. On disk, what one spill
        writes may pass the limit until the next; with 0 nothing is spilled.

        Args:
            tokens: The prefix; none means the whole namespace.
            tier: "memory" or "disk".
            num_bytes: Rounded down to whole units. None takes back.
            namespace: Which tree.

        Raises:
            ValueError: An argument is out of its range.
        """
    def set_time_to_live(
        self,
        tokens: typing.Any,
        time_to_live: typing.SupportsInt | typing.SupportsIndex | None,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> None:
        """
        Let a subtree be forgotten where it is not used.

        A chunk that was last used, or stored, at t leaves with the first `advance` to t + time_to_live or
        later; with leaves first, as in eviction. Arguments as for `set_priority`.

        Args:
            tokens: The prefix.
            time_to_live: In the unit of the `time` that other calls are given. None takes back.
            namespace: Which tree.

        Raises:
            ValueError: It is negative.
        """
    def state_hash(self) -> int:
        """
        A digest of all changes so far: equal on replicas that saw the same calls.
        """
    def stats(self) -> IndexStats:
        """
        Counts of now.
        """
    def subtree_stats(
        self, tokens: typing.Any, namespace: typing.SupportsInt | typing.SupportsIndex = 0
    ) -> SubtreeStats:
        """
        How much is kept of what begins with `tokens`, and how often it was found. Looks at each chunk.
        """
    def take_events(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """
        The events since the last call: (events, tokens), see `radixkv.events`.
        """
    def take_remains(self, *, all: bool = False) -> numpy.ndarray:
        """
        Chunks that left the disk and have to be cleared there before the next spill, so that its headers suffice; or all whose headers may still be there.
        """
    def touch(self, handle: PrefixHandle, time: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Writes an admission's number to the last chunk of the handle.
        """
    def unpin(
        self,
        tokens: typing.Any,
        owner: str,
        namespace: typing.SupportsInt | typing.SupportsIndex = 0,
    ) -> bool:
        """
        Ends an owner's pin of this very prefix; False where there is none.
        """
    def unpin_all(self, owner: str) -> int:
        """
        Ends all pins of an owner; returns how many there were.
        """
    def use(
        self,
        handle: PrefixHandle,
        first_token: typing.SupportsInt | typing.SupportsIndex,
        num_tokens: typing.SupportsInt | typing.SupportsIndex,
    ) -> numpy.ndarray:
        """
        Slices of a handle's tokens in memory, with one use on each.
        """
    def wait_for_runs(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex = 60.0) -> bool:
        """
        Waits until `find_runs` knows all that is kept; False where that takes longer.
        """
    def walk_subtree(
        self,
        tokens: typing.Any,
        namespace: typing.SupportsInt | typing.SupportsIndex,
        with_path: bool,
    ) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """
        See `RadixIndex.walk`.
        """
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def unit_bytes(self) -> int: ...

class SubtreeMark:
    """
    What was said about a prefix.
    """
    def __repr__(self) -> str: ...
    @property
    def digest(self) -> bytes:
        """
        The namespace's.
        """
    @property
    def disk_charged_bytes(self) -> int: ...
    @property
    def disk_quota_bytes(self) -> int | None: ...
    @property
    def memory_charged_bytes(self) -> int:
        """
        What the quota is charged for; 0 without one.
        """
    @property
    def memory_quota_bytes(self) -> int | None: ...
    @property
    def pins(self) -> dict[str, int | None]:
        """
        Owners, and when their pins end; None is never.
        """
    @property
    def priority(self) -> int | None: ...
    @property
    def time_to_live(self) -> int | None: ...
    @property
    def tokens(self) -> numpy.typing.NDArray[numpy.uint32]:
        """
        The prefix. Shape: (n,), uint32.
        """

class SubtreeStats:
    """
    How much of a subtree is kept.
    """
    def __repr__(self) -> str: ...
    @property
    def chunks(self) -> int:
        """
        Kept on any tier.
        """
    @property
    def disk_bytes(self) -> int:
        """
        Extents on disk, with those still being written.
        """
    @property
    def disk_chunks(self) -> int:
        """
        Ready on disk.
        """
    @property
    def hits(self) -> int:
        """
        Admissions that ended on one of them, after the one that stored it.
        """
    @property
    def last_use(self) -> int:
        """
        The youngest admission.
        """
    @property
    def memory_bytes(self) -> int:
        """
        Extents in memory, with those still being written.
        """
    @property
    def memory_chunks(self) -> int:
        """
        Ready in memory.
        """
    @property
    def tokens(self) -> int:
        """
        Of these chunks.
        """

class SavedIndex:
    """
    An index as its file has it.
    """
    def __init__(self, path: bytes) -> None: ...
    @property
    def checksum(self) -> int:
        """
        Of all that counts: equal where files say the same.
        """
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def disk_bytes(self) -> int: ...
    @property
    def max_pinned(self) -> float: ...
    @property
    def memory_bytes(self) -> int | None: ...
    @property
    def now(self) -> int:
        """
        Its last admission.
        """
    @property
    def num_lost_bytes(self) -> int:
        """
        Bytes at the end that were torn or damaged, and do not count.
        """
    @property
    def policy(self) -> str: ...
    @property
    def tail_slack(self) -> int: ...
    @property
    def token_bytes(self) -> int: ...
    @property
    def unit_bytes(self) -> int: ...

class IndexJournal:
    """
    Writes down what becomes of an index.

    The file begins with a snapshot, and is always one that `RadixIndex.open` reads: as the index was
    with the last `flush` that came whole to the disk. Nothing is written but by these calls. Any thread
    may make them, one at a time; matches and changes go on beside them.
    """
    def __enter__(self) -> IndexJournal: ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None: ...
    def abandon(self) -> None:
        """
        Write nothing more, not even what has changed.
        """
    def close(self) -> None:
        """
        Flush, and write nothing more. A second call does nothing.
        """
    def compact(self) -> None:
        """
        Begin the file anew with a snapshot, made of what it has; worth it once `num_bytes` has outgrown `num_snapshot_bytes` by far. Raises as `flush` does, and IndexFormatError where somebody has damaged the file.
        """
    def flush(self, *, sync: bool = True) -> None:
        """
        Append what has changed since the last call.

        Args:
            sync: Wait until it is on the disk. Else it survives the process, not the machine.

        Raises:
            OSError: It could not be written; the next call tries again.
            ValueError: The journal was closed.
        """
    @property
    def is_closed(self) -> bool: ...
    @property
    def num_bytes(self) -> int:
        """
        Of the file.
        """
    @property
    def num_snapshot_bytes(self) -> int:
        """
        Of the snapshot that the file begins with.
        """

class ChunkFollower:
    """
    What an index keeps, by its events alone.
    """
    def __init__(self, chunk_tokens: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __len__(self) -> int: ...
    def apply(self, events: numpy.ndarray, tokens: numpy.typing.NDArray[numpy.uint32]) -> None:
        """
        Takes in events as `RadixIndex.take_events` gives them, with their tokens.
        """
    def match(
        self, tokens: typing.Any, namespace: typing.SupportsInt | typing.SupportsIndex = 0
    ) -> tuple[int, int]:
        """
        (tokens of the longest prefix that is kept on any tier, and in memory)
        """

class DiskInspection:
    def __init__(self, path: bytes) -> None: ...
    def facts(self) -> dict[str, typing.Any]: ...
    def read(self, index: typing.SupportsInt | typing.SupportsIndex) -> bytes | None:
        """
        The bytes of a chunk in stored form; None where they are damaged.
        """
    def restored(self) -> dict[str, typing.Any]: ...
    def verify(self, index: typing.SupportsInt | typing.SupportsIndex) -> bool: ...

class RedisEndpoint:
    ca_file: str
    host: str
    master_name: str
    password: str
    tls: bool
    unix_path: str
    username: str
    verifies_server: bool
    def __init__(self) -> None: ...
    @property
    def database(self) -> int: ...
    @database.setter
    def database(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def port(self) -> int: ...
    @port.setter
    def port(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def sentinels(self) -> list[RedisEndpoint]: ...
    @sentinels.setter
    def sentinels(self, arg0: collections.abc.Sequence[RedisEndpoint]) -> None: ...
    @property
    def timeout_s(self) -> float: ...
    @timeout_s.setter
    def timeout_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    @property
    def ttl_s(self) -> int: ...
    @ttl_s.setter
    def ttl_s(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...

class OutsideObjects:
    def __len__(self) -> int: ...
    def begin_get(self) -> None: ...
    def begin_put(self) -> int: ...
    def buffers(
        self, count: typing.SupportsInt | typing.SupportsIndex
    ) -> tuple[list[list[int]], list[list[int]]]: ...
    def finish_get(self, count: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def name(self, index: typing.SupportsInt | typing.SupportsIndex) -> str: ...
    def num_bytes(self, num_objects: typing.SupportsInt | typing.SupportsIndex) -> int: ...

class ExecutorOptions:
    copies_rows: bool
    hugepages: bool
    pin: bool
    def __init__(self) -> None: ...
    def add_remote(self, remote: RedisEndpoint) -> None: ...
    def set_object_shape(
        self,
        layout_digest: bytes,
        rank: typing.SupportsInt | typing.SupportsIndex,
        world_size: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    @property
    def chunk_tokens(self) -> int: ...
    @chunk_tokens.setter
    def chunk_tokens(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def memory_units(self) -> int: ...
    @memory_units.setter
    def memory_units(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def num_copy_threads(self) -> int: ...
    @num_copy_threads.setter
    def num_copy_threads(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def num_kv(self) -> int: ...
    @num_kv.setter
    def num_kv(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def num_layers(self) -> int: ...
    @num_layers.setter
    def num_layers(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def numa_node(self) -> int: ...
    @numa_node.setter
    def numa_node(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def row_bytes(self) -> int: ...
    @row_bytes.setter
    def row_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def unit_bytes(self) -> int: ...
    @unit_bytes.setter
    def unit_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...

class DiskOptions:
    allow_uring: bool
    group_durable: bool
    def __init__(self) -> None: ...
    def set_folder(self, arg0: bytes) -> None: ...
    def set_group_id(self, arg0: bytes) -> None: ...
    def set_shape(
        self,
        arg0: bytes,
        arg1: typing.SupportsInt | typing.SupportsIndex,
        arg2: typing.SupportsInt | typing.SupportsIndex,
        arg3: typing.SupportsInt | typing.SupportsIndex,
        arg4: typing.SupportsInt | typing.SupportsIndex,
        arg5: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    @property
    def depth(self) -> int: ...
    @depth.setter
    def depth(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def piece_bytes(self) -> int: ...
    @piece_bytes.setter
    def piece_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def sync_bytes(self) -> int: ...
    @sync_bytes.setter
    def sync_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def sync_interval_s(self) -> float: ...
    @sync_interval_s.setter
    def sync_interval_s(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None: ...

class CommandKind:
    """
    Members:

      STORE

      LOAD

      SPILL

      FETCH

      CLEAR

      PUT

      GET

      LOOKUP
    """

    CLEAR: typing.ClassVar[CommandKind]
    FETCH: typing.ClassVar[CommandKind]
    GET: typing.ClassVar[CommandKind]
    LOAD: typing.ClassVar[CommandKind]
    LOOKUP: typing.ClassVar[CommandKind]
    PUT: typing.ClassVar[CommandKind]
    SPILL: typing.ClassVar[CommandKind]
    STORE: typing.ClassVar[CommandKind]
    __members__: typing.ClassVar[dict[str, CommandKind]]
    @typing.overload
    def __eq__(self, other: CommandKind) -> bool: ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getstate__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __index__(self) -> int: ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __int__(self) -> int: ...
    @typing.overload
    def __ne__(self, other: CommandKind) -> bool: ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __str__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Executor:
    def __init__(
        self,
        options: ExecutorOptions,
        disk: DiskOptions | None,
        pool_progress: collections.abc.Callable[[int], None],
        scan_progress: collections.abc.Callable[[int, int], None],
    ) -> None: ...
    def attach(
        self,
        addresses: numpy.typing.NDArray[numpy.uint64],
        strides: numpy.typing.NDArray[numpy.int64],
        num_slots: typing.SupportsInt | typing.SupportsIndex,
        block_slots: typing.SupportsInt | typing.SupportsIndex,
        slot_strides: numpy.typing.NDArray[numpy.int64] | None,
        num_pieces: typing.SupportsInt | typing.SupportsIndex,
        piece_strides: numpy.typing.NDArray[numpy.int64] | None,
    ) -> None: ...
    def begin_elsewhere(
        self, kind: CommandKind, command_id: typing.SupportsInt | typing.SupportsIndex
    ) -> bool: ...
    def begin_outside(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
        num_slots: typing.SupportsInt | typing.SupportsIndex,
    ) -> bool: ...
    def chunk_names(
        self, parent_key: bytes, tokens: numpy.typing.NDArray[numpy.uint32]
    ) -> list[str]: ...
    def close(self, drain_s: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def disk_facts(self) -> dict[str, typing.Any] | None: ...
    def end_elsewhere(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        num_ok: typing.SupportsInt | typing.SupportsIndex,
        status: typing.SupportsInt | typing.SupportsIndex,
        num_bytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def end_outside(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
        ok: bool,
    ) -> None: ...
    def inject_fault(
        self,
        kind: CommandKind,
        nth: typing.SupportsInt | typing.SupportsIndex,
        fail: bool,
        delay_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> None: ...
    def kind_stats(self, kind: CommandKind) -> dict[str, typing.Any]: ...
    def layers_done(self, command_id: typing.SupportsInt | typing.SupportsIndex) -> int: ...
    def outside_objects(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: typing.Any,
        tokens: numpy.typing.NDArray[numpy.uint32],
        parent_key: bytes,
        heads: typing.SupportsInt | typing.SupportsIndex,
    ) -> OutsideObjects: ...
    def poll(
        self, max: typing.SupportsInt | typing.SupportsIndex
    ) -> list[tuple[int, int, int]]: ...
    def pool_facts(self) -> dict[str, typing.Any]: ...
    def read_memory(
        self,
        offset_units: typing.SupportsInt | typing.SupportsIndex,
        num_bytes: typing.SupportsInt | typing.SupportsIndex,
    ) -> bytes: ...
    def remote_changes(self) -> int: ...
    def remote_health(self) -> list[tuple[bool, str]]: ...
    def submit_copy(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
        slots: numpy.typing.NDArray[numpy.int64],
    ) -> None: ...
    def submit_disk(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
    ) -> None: ...
    def submit_remote(
        self,
        kind: CommandKind,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        remote: typing.SupportsInt | typing.SupportsIndex,
        chunks: typing.Any,
        tokens: numpy.typing.NDArray[numpy.uint32],
        parent_key: bytes,
    ) -> None: ...
    def submit_spill(
        self,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
        tokens: numpy.typing.NDArray[numpy.uint32],
        namespace: bytes,
        sequence: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def submit_stored(
        self,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        chunks: numpy.ndarray,
        payloads: collections.abc.Sequence[bytes],
    ) -> None: ...
    def take_disk_trouble(self) -> str: ...
    def take_restored(self) -> dict[str, typing.Any] | None: ...
    def wait(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> None: ...
    def wait_layer(
        self,
        command_id: typing.SupportsInt | typing.SupportsIndex,
        layer: typing.SupportsInt | typing.SupportsIndex,
        timeout_s: typing.SupportsFloat | typing.SupportsIndex,
    ) -> bool: ...

def checksum(bytes: bytes) -> int:
    """
    XXH3-64, as headers and payloads have it.
    """

def disk_units_that_fit(
    capacity_bytes: typing.SupportsInt | typing.SupportsIndex,
    unit_bytes: typing.SupportsInt | typing.SupportsIndex,
) -> int: ...

MAX_HEAD_BYTES: int = 4096
