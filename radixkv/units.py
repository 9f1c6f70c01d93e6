"""Sizes and durations as people write them: "20GiB", "1.5TiB", "2s", "500ms"."""

from __future__ import annotations

import math
import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of a size such as "20GiB"; only zero may stand without a unit.

    Raises:
        ValueError: Not a number with one of the units B, KiB, MiB, GiB, TiB.
    """
    return round(_parse(text, _SIZE_UNITS))


def parse_duration(text: str) -> float:
    """Seconds of a duration such as "2s"; only zero may stand without a unit.

    Raises:
        ValueError: Not a number with one of the units ms, s, min.
    """
    return _parse(text, _DURATION_UNITS)


def format_size(num_bytes: int) -> str:
    """An exact text that `parse_size` reads back: a whole number of the largest unit."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if num_bytes % factor == 0 and num_bytes >= factor:
            return f"{num_bytes // factor}{unit}"
    return f"{num_bytes}B"


def approximate_size(num_bytes: float) -> str:
    """A size for reading, at most four digits: "7.451GiB"."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.4g}{unit}"
    return "0B"


def format_duration(seconds: float) -> str:
    """A text that `parse_duration` reads back: "2s", "500ms"."""
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"


def _parse(text: str, units: dict[str, float] | dict[str, int]) -> float:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a number with a unit ({', '.join(units)}): {text!r}")
    number, unit = float(match[1]), match[2]
    if math.isinf(number * max(units.values())):
        raise ValueError(f"too large a number: one of {len(match[1])} digits")
    if unit in units:
        return number * units[unit]
    if number == 0 and not unit:
        return 0.0
    wrong = f"unknown unit {unit!r}" if unit else f"{text!r} lacks its unit"
    raise ValueError(f"{wrong}, known are {', '.join(units)}")
