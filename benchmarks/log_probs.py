"""How near two answers are: the log-probabilities of the likeliest tokens after a prompt.

Engines round: the same prompt computed in batches of another shape gives other log-probabilities.
So KV that came back is held against KV that never left the GPU, not against zero; and a control
whose KV is wrong must be seen to be wrong.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping

from engine_process import Times
from harness import emit, progress

NUM_TOP = 5
NUM_ASKED = 50  # among which those five are looked for
MISSED = 5.0  # the difference of a token that is not among them
ALLOWED = 1.25  # times the device hits' difference
LogProbs = dict[int, float]


def draw_prompts(num_prompts: int, num_tokens: int) -> list[list[int]]:
    """The same ones in every process."""
    source = random.Random(3)
    return [[source.randrange(3, 128_000) for _ in range(num_tokens)] for _ in range(num_prompts)]


def differences(truth: list[LogProbs], seen: list[LogProbs]) -> list[float]:
    """Of each prompt: how far the log-probabilities of its likeliest tokens are off, on average."""
    result = []
    for right, other in zip(truth, seen, strict=True):
        top = sorted(right, key=lambda token: -right[token])[:NUM_TOP]
        off = [abs(right[token] - other[token]) if token in other else MISSED for token in top]
        result.append(statistics.fmean(off))
    return result


def judge(
    engine: str,
    right: Times,
    control: Times,
    allowed: Mapping[str, float],
    **circumstances: object,
) -> None:
    """Prints a row for each kind of hit, and ends the program where one is too far off.

    Args:
        engine: For the rows' names.
        right: Differences of each prompt by kind; "device" is what the others are held against.
        control: The same with KV that is wrong on purpose.
        allowed: Of each kind but "device": times the device hits' difference that it may be off.
        circumstances: More of what the rows tell.
    """
    means = {kind: statistics.fmean(values) for kind, values in right.items()}
    wrong = {kind: statistics.fmean(values) for kind, values in control.items()}
    for kind, mean in means.items():
        emit(
            f"parity.{engine}.{kind}_difference",
            [mean],
            "nats",
            baseline=("device hits", [means["device"]]),
            allowed=round(allowed.get(kind, 1) * means["device"], 5),
            control=round(wrong.get("host", 0.0), 3),
            prompts=len(right[kind]),
            **circumstances,
        )
    for kind, factor in allowed.items():
        if not means[kind] <= factor * means["device"] < wrong["host"]:
            raise SystemExit(f"{kind}: {means} with a control of {wrong['host']:.4f}")
    progress("  what came back is as near to what was computed as device hits are")
