"""Lets SGLang fork its processes (`RADIXKV_TEST_FORK=1`) where it spawns them.

A spawned process imports all of SGLang again: half of the CPU time that a start takes. When SGLang
starts its processes nothing of the engine runs yet, so that forks do as well; but users have
spawned ones, so some tests leave SGLang as it is.
"""

from __future__ import annotations

import multiprocessing
import os

VARIABLE = "RADIXKV_TEST_FORK"


def install() -> None:
    """To call before SGLang starts a process, be that before or after it has said how."""
    if not os.environ.get(VARIABLE):
        return
    set_start_method = multiprocessing.set_start_method

    def fork(method: str | None, force: bool = False) -> None:
        set_start_method("fork" if method == "spawn" else method, force)

    multiprocessing.set_start_method = fork
    fork("fork", force=True)
