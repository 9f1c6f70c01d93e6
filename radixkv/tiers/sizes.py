"""Whether the sizes that the settings give the tiers fit a model and this process."""

from __future__ import annotations

import logging

from radixkv.config import CacheConfig
from radixkv.errors import ConfigError
from radixkv.host_memory import memory_limit_bytes, usable_memory_bytes
from radixkv.layout import UNITS_PER_CHUNK, KVLayout
from radixkv.tiers.disk import units_that_fit
from radixkv.units import approximate_size

logger = logging.getLogger(__name__)


def check_sizes(layout: KVLayout, config: CacheConfig) -> None:
    """Refuse settings with which a tier could not hold one full chunk, or not be had.

    The kernel would end a process that faults in more memory than its control group allows. More
    than the host has is told, not refused: a virtual machine may grow as its memory is used.

    Raises:
        ConfigError: Names the setting.
    """
    wanted, limit = config.memory_size_bytes, memory_limit_bytes()
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"memory.size: a rank's share is {approximate_size(wanted)}, this process may use "
            f"{approximate_size(limit)}; make it smaller"
        )
    if wanted > (usable := usable_memory_bytes()):
        logger.warning(
            "memory.size: a rank's share is %s, this host has %s: unless it grows, the kernel will "
            "end this process",
            approximate_size(wanted),
            approximate_size(usable),
        )
    unit_bytes = layout.unit_bytes(config.chunk_tokens)
    units = {"memory.size": config.memory_size_bytes // unit_bytes}
    if config.disk_path is not None:
        units["disk.size"] = units_that_fit(config.disk_size_bytes, unit_bytes)
    for key, num_units in units.items():
        if num_units < UNITS_PER_CHUNK:
            raise ConfigError(
                f"{key}: a rank's share has no room for one chunk of {config.chunk_tokens} tokens, "
                f"{approximate_size(UNITS_PER_CHUNK * unit_bytes)} of this model"
                f"{' and its headers' if key == 'disk.size' else ''}; make it larger"
            )
