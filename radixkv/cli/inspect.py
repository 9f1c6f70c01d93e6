"""`radixkv inspect`: what a disk tier holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from radixkv.errors import TierError
from radixkv.tiers.disk import DiskInspection, RestoredChunks, inspect_folder
from radixkv.units import approximate_size


@click.command(short_help="What a disk tier holds, and whether it is whole.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--verify", is_flag=True, help="Read every payload and compare its checksum.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a rank.")
def inspect(folder: Path, verify: bool, as_json: bool) -> None:
    """Show what the disk tier in FOLDER holds, of every rank and namespace.

    Nothing is changed and no lock is taken: it may run beside the engine that uses the folder. What
    is being replaced meanwhile then shows as damaged. Exits with 1 if --verify finds damage.

    \b
    radixkv inspect /var/lib/radixkv
    radixkv inspect /var/lib/radixkv --verify
    """
    try:
        files = inspect_folder(folder)
    except TierError as error:
        raise click.ClickException(error.reason) from error
    reports = [describe(file) for file in files]
    if verify:
        for file, report in zip(files, reports, strict=True):
            report["damaged"] = _verify(file)
    for report in reports:
        if as_json:
            click.echo(json.dumps(report))
        else:
            _print(report)
    if any(report.get("damaged") for report in reports):
        raise SystemExit(1)


def describe(file: DiskInspection) -> dict[str, Any]:
    """What one rank's file holds, ready for JSON."""
    chunks = file.chunks
    return {
        "path": str(file.path),
        "rank": file.rank,
        "world_size": file.world_size,
        "in_use_by": file.locked_by(),
        "format_version": file.format_version,
        "layout_digest": file.layout_digest.hex(),
        "chunk_tokens": file.chunk_tokens,
        "capacity_bytes": file.capacity_units * file.unit_bytes,
        "used_bytes": int(chunks.num_units.sum(dtype=np.int64)) * file.unit_bytes,
        "num_chunks": len(chunks),
        "num_tails": int((chunks.num_tokens < file.chunk_tokens).sum()),
        "num_tokens": int(chunks.num_tokens.sum(dtype=np.int64)),
        "longest_path_tokens": int(max(_path_tokens(chunks), default=0)),
        "namespaces": _namespaces(chunks),
        "dropped": {reason: count for reason, count in chunks.dropped.items() if count},
    }


def _path_tokens(chunks: RestoredChunks) -> list[int]:
    """Tokens from the root to the end of each chunk; parents stand before their children."""
    totals: list[int] = []
    for parent, own in zip(chunks.parent_index.tolist(), chunks.num_tokens.tolist(), strict=True):
        totals.append(own + (totals[parent] if parent >= 0 else 0))
    return totals


def _namespaces(chunks: RestoredChunks) -> list[dict[str, Any]]:
    found = []
    for index, digest in enumerate(chunks.digests):
        of_this = chunks.namespace_index == index
        found.append(
            {
                "digest": digest.hex(),
                "num_chunks": int(of_this.sum()),
                "num_tokens": int(chunks.num_tokens[of_this].sum(dtype=np.int64)),
                "num_prompts": int((of_this & (chunks.parent_index < 0)).sum()),
            }
        )
    return found


def _verify(file: DiskInspection) -> list[int]:
    """Disk offsets of the damaged chunks, in units."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"rank {file.rank}", total=len(file.chunks))
        damaged = file.verify(lambda done, _: progress.update(task, completed=done))
    return [int(file.chunks.disk_offset[index]) for index in damaged]


def _print(report: dict[str, Any]) -> None:
    click.echo(report["path"])
    table = Table.grid(padding=(0, 2))
    rank = f"{report['rank']} of {report['world_size']}"
    user = report["in_use_by"]
    table.add_row("rank", rank if user is None else f"{rank}, in use by process {user}")
    used, capacity = report["used_bytes"], report["capacity_bytes"]
    table.add_row("used", f"{approximate_size(used)} of {approximate_size(capacity)}")
    tails = f"{report['num_tails']:,} not full"
    table.add_row("chunks", f"{report['num_chunks']:,} of {report['chunk_tokens']} tokens, {tails}")
    longest = f"longest path {report['longest_path_tokens']:,}"
    table.add_row("tokens", f"{report['num_tokens']:,}, {longest}")
    for namespace in report["namespaces"]:
        beginnings = f"{namespace['num_prompts']:,} first chunks"
        tokens = f"{namespace['num_tokens']:,} tokens, {beginnings}"
        table.add_row(f"namespace {namespace['digest'][:8]}", tokens)
    if report["dropped"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in report["dropped"].items())
        table.add_row("not counted", reasons)
    if "damaged" in report:
        damaged = report["damaged"]
        verdict = f"{len(damaged):,} damaged, never served" if damaged else "all as written"
        table.add_row("payloads", verdict)
    Console(highlight=False).print(table)
