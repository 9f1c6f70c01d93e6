"""How much memory this process may use: the host's, or less where a control group limits it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from radixkv.units import KIB

MEMINFO = Path("/proc/meminfo")
MEMBERSHIP = Path("/proc/self/cgroup")
HIERARCHY = Path("/sys/fs/cgroup")


def usable_memory_bytes() -> int:
    """The host's memory, or what this process is limited to."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = memory_limit_bytes()
    return total if limit is None else min(total, limit)


def available_memory_bytes() -> int:
    """What of that is free now, or would be if asked for."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
    return min(int(found[1]) * KIB if found else 0, usable_memory_bytes())


def memory_limit_bytes() -> int | None:
    """The least that a control group around this process allows; None where none limits it.

    Above it, in a container or a batch job, the kernel ends the process.
    """
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    for file in _limit_files():
        try:
            yield int(file.read_text())
        except (OSError, ValueError):  # not there: of a group outside the container; or "max"
            continue


def _limit_files() -> Iterator[Path]:
    """Of this process's group and those around it; in a container the last is the container's."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = HIERARCHY, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = HIERARCHY / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for around in (group, *group.parents):
            yield root / around / name
