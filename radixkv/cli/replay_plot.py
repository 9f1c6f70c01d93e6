"""Hit rate over capacity, drawn by matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click


def plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws a panel for each trace: a line for each kind of cache, and the bounds above them.

    Args:
        path: Where to; the suffix says whether PNG, SVG or PDF.
        rows: As `Row.values` of `radixkv.cli.replay` has them.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise click.ClickException("--plot needs matplotlib: pip install matplotlib") from error
    names = list(dict.fromkeys(row["trace"] for row in rows))
    figure = Figure(figsize=(6 * len(names), 4.5), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        _draw(panel, name, [row for row in rows if row["trace"] == name])
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: {error}") from error


def _draw(panel: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        capacity = row["memory_tokens"] + row["disk_tokens"]
        label = f"{row['policy']}, chunks of {row['chunk_tokens']}"
        if row["disk_tokens"]:
            label += f", disk {row['disk']}"
        lines.setdefault(label, []).append((capacity, row["hit_rate"]))
        lines.setdefault("optimum", []).append((capacity, row["optimum_hit_rate"]))
    for label, points in lines.items():
        style = "--" if label == "optimum" else "o-"
        panel.plot(*zip(*sorted(set(points)), strict=True), style, label=label)
    panel.axhline(rows[0]["ideal_hit_rate"], color="grey", linewidth=0.8, label="infinite memory")
    panel.set(
        title=name, xlabel="capacity in tokens", ylabel="hit rate", xscale="log", ylim=(0, None)
    )
    panel.legend()
