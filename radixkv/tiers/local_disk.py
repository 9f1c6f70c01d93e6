"""The disk tier of one executor: how it is opened, and what the log says of it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from radixkv import _native
from radixkv.commands import CompletionStatus
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions, RestoredChunks, units_that_fit
from radixkv.units import approximate_size

logger = logging.getLogger(__name__)

_SAME_TROUBLE_S = 60.0
_TROUBLES = (CompletionStatus.FAILED, CompletionStatus.FULL)


class LocalDisk:
    """What Python keeps of a tier that the native executor serves.

    Args:
        options: How to open it.
        layout: Shape of a token's KV.
        chunk_tokens: Of a full chunk.

    Attributes:
        num_units: Units that its file has room for.
        native_options: For the executor that is about to be made.

    Raises:
        ValueError: There is no room for a unit.
    """

    def __init__(self, options: DiskOptions, layout: KVLayout, chunk_tokens: int) -> None:
        self._unit_bytes = layout.unit_bytes(chunk_tokens)
        self.num_units = units_that_fit(options.capacity_bytes, self._unit_bytes)
        if self.num_units < 1:
            raise ValueError(
                f"capacity_bytes: expected room for at least one unit of {self._unit_bytes} and "
                f"its header, got {options.capacity_bytes}"
            )
        self.native_options = native = _native.DiskOptions()
        native.set_folder(os.fsencode(os.path.abspath(options.path)))  # wherever we go later
        native.group_durable = options.durable == "group"
        native.allow_uring = options.io_engine == "auto"
        native.sync_bytes = options.sync_bytes
        native.sync_interval_s = options.sync_interval_s
        native.piece_bytes = options.piece_bytes
        native.depth = options.depth
        if options.group_id is not None:
            native.set_group_id(options.group_id)
        native.set_shape(
            layout.digest(chunk_tokens),
            self._unit_bytes,
            chunk_tokens,
            self.num_units,
            options.world_size,
            options.rank,
        )
        self._told = ""
        self._told_s = 0.0

    def open(self, executor: _native.Executor) -> RestoredChunks:
        """The executor is there, and has opened the file: say so, and give what it held."""
        self._executor = executor
        facts, fields = executor.disk_facts(), executor.take_restored()
        assert facts is not None
        assert fields is not None
        self.path = str(facts["path"])
        self.io_engine = str(facts["io_engine"])
        restored = RestoredChunks.from_fields(fields)
        logger.info(
            "disk: %s %s, %s, %s%s%s%s; %d chunks found, dropped: %s",
            "made" if facts["created"] else "opened",
            self.path,
            approximate_size(self.num_units * self._unit_bytes),
            self.io_engine,
            " with registered buffers" if facts["registered_buffers"] else "",
            "" if facts["direct"] else ", through the page cache (O_DIRECT was refused)",
            f" ({facts['io_note']})" if facts["io_note"] else "",
            len(restored),
            {reason: count for reason, count in restored.dropped.items() if count} or "none",
        )
        return restored

    def look(self, statuses: Sequence[CompletionStatus]) -> None:
        """Commands ended so, some perhaps the disk's: log why it failed, where it did."""
        if not any(status in _TROUBLES for status in statuses):
            return
        trouble, now_s = self._executor.take_disk_trouble(), time.monotonic()
        if trouble and (trouble != self._told or now_s > self._told_s + _SAME_TROUBLE_S):
            logger.warning("disk %s: %s", self.path, trouble)
            self._told, self._told_s = trouble, now_s
