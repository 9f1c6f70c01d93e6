"""Letting `radixkv top` look at a planner: as long as it lives, on a thread of its own."""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from dataclasses import asdict

from radixkv.planner import Planner
from radixkv.status import Status, StatusServer
from radixkv.subtrees import largest_subtrees


def serve_status(planner: Planner) -> StatusServer | None:
    """Answers `radixkv top`, until closed or the planner is gone.

    Returns:
        None where there is no place for a socket; a cache works as well without.
    """
    seeds = itertools.count()
    reference = weakref.ref(planner)

    def read() -> Status:
        alive = reference()
        return read_status(alive, next(seeds)) if alive is not None else {}

    try:
        server = StatusServer(read)
    except OSError as error:
        logging.getLogger(__name__).warning("radixkv top will not see this process: %s", error)
        return None
    weakref.finalize(planner, server.close)
    return server


def read_status(planner: Planner, seed: int) -> Status:
    """What a planner keeps and did so far; from any thread."""
    subtrees = largest_subtrees(planner.index, seed=seed)
    return {
        "pid": os.getpid(),
        "time_s": time.monotonic(),
        **planner.status(),
        "subtrees": [asdict(one) for one in subtrees],
    }
