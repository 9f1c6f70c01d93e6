"""How much memory this process may use: the host's, or less where a control group limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MEMBERSHIP = Path("/proc/self/cgroup")
HIERARCHY = Path("/sys/fs/cgroup")


def usable_memory_bytes() -> int:
    """The host's memory, or the least that a control group around this process allows.

    Above it, in a container or a batch job, the kernel ends the process.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits()])


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
