"""What a check of the host finds. `doctor` prints these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Whether radixkv works with what was found."""

    OK = "ok"
    WARN = "warn"  # works, but slower or with less than it could
    FAIL = "fail"  # does not start


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: What was looked at.
        status: Whether it is good enough.
        finding: What is there.
        advice: What to do about it; empty where all is well.
    """

    name: str
    status: Status
    finding: str
    advice: str = ""


def ok(name: str, finding: str) -> Check:
    """All is well."""
    return Check(name, Status.OK, finding)


def warn(name: str, finding: str, advice: str) -> Check:
    """It works, but could be better."""
    return Check(name, Status.WARN, finding, advice)


def fail(name: str, finding: str, advice: str) -> Check:
    """It does not work."""
    return Check(name, Status.FAIL, finding, advice)
