"""What a process made is its own to end: a fork has none of its threads, and shares its files."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any


def finalize_at_home(
    made: Any, end: Callable[..., object], *arguments: object
) -> weakref.finalize[..., Any]:
    """`weakref.finalize` that does nothing in a fork of the process that calls this."""
    return weakref.finalize(made, _end_at_home, os.getpid(), end, *arguments)


def _end_at_home(home: int, end: Callable[..., object], *arguments: object) -> None:
    if os.getpid() == home:
        end(*arguments)
