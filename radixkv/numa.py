"""Which NUMA node a process is bound to."""

from __future__ import annotations

import os
from pathlib import Path

NODES = Path("/sys/devices/system/node")


def local_node() -> int:
    """The one node that has all CPUs that this process may run on; -1 if there is no such one.

    On a host with a single node there is nothing to choose: -1 as well.
    """
    nodes = list(NODES.glob("node[0-9]*"))
    allowed = os.sched_getaffinity(0)
    holding = [node for node in nodes if allowed <= _cpus(node)]
    if len(nodes) < 2 or not holding:
        return -1
    return int(holding[0].name.removeprefix("node"))


def _cpus(node: Path) -> set[int]:
    """CPUs of a node; the kernel writes them as "0-3,8"."""
    cpus: set[int] = set()
    for part in (node / "cpulist").read_text().strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus
