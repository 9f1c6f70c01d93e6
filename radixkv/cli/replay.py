"""`radixkv replay`: what a cache of a given size would have found in recorded requests."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from radixkv.cli.kv_shape import ELEMENT_BYTES, read_model
from radixkv.cli.replay_plot import plot
from radixkv.config import DEFAULT_POLICY, POLICIES, Policy
from radixkv.layout import KVLayout
from radixkv.replay import Replay, Setup, Trace, TraceError, ideal, optimum, read_trace, replay
from radixkv.replay.run import DEFAULT_LAYOUT
from radixkv.units import TIB, approximate_size, parse_size

_LARGEST_SHARE = 100.0
_LARGEST_BYTES = 1024 * TIB


@dataclass(frozen=True, slots=True)
class Size:
    """A tier's size as it was asked for: a share of the trace's distinct tokens, or bytes."""

    text: str
    share: float = 0.0
    num_bytes: int = 0

    def num_tokens(self, trace: Trace, layout: KVLayout) -> int:
        """Tokens that such a tier has room for."""
        if self.share:
            return round(self.share * trace.num_distinct_tokens)
        return self.num_bytes // layout.token_bytes


class SizeType(click.ParamType[Size]):
    """ "10%" or "20GiB"."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Size:
        """Parses one size."""
        text = str(value)
        try:
            if text.endswith("%"):
                size = Size(text, share=float(text[:-1]) / 100)
            else:
                size = Size(text, num_bytes=parse_size(text))
        except (ValueError, OverflowError):
            self.fail(f"expected a size such as 20GiB or 10%, got {text!r}", param, ctx)
        if not (0 <= size.share <= _LARGEST_SHARE and size.num_bytes <= _LARGEST_BYTES):
            self.fail(
                f"expected at most 1024TiB or 10000%, and no less than 0: {text!r}", param, ctx
            )
        return size


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration of one trace, and what bounds it."""

    trace: str
    memory: str
    disk: str
    replay: Replay
    ideal_tokens: int
    optimum_tokens: int

    def values(self) -> dict[str, object]:
        """As a line of a CSV file; sizes and what moved in tokens, but for `moved_bytes`."""
        result = self.replay
        return {
            "trace": self.trace,
            "policy": result.setup.policy,
            "memory": self.memory,
            "disk": self.disk,
            "chunk_tokens": result.setup.chunk_tokens,
            "memory_tokens": result.setup.memory_tokens,
            "disk_tokens": result.setup.disk_tokens,
            "requests": result.num_requests,
            "tokens": result.num_tokens,
            "hit_rate": round(result.hit_rate, 6),
            "ideal_hit_rate": round(self.ideal_tokens / result.num_tokens, 6),
            "optimum_hit_rate": round(self.optimum_tokens / result.num_tokens, 6),
            "memory_hit_tokens": result.memory_hit_tokens,
            "disk_hit_tokens": result.disk_hit_tokens,
            "recomputed_tokens": self.ideal_tokens - result.hit_tokens,
            "stored_tokens": result.stored_tokens,
            "spilled_tokens": result.spilled_tokens,
            "moved_bytes": result.moved_bytes,
            "evicted_memory_chunks": result.evicted_memory_chunks,
            "evicted_disk_chunks": result.evicted_disk_chunks,
        }


@click.command("replay", short_help="What a cache would have found in recorded requests.")
@click.argument("traces", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--memory",
    "memories",
    multiple=True,
    type=SizeType(),
    default=("1%", "3%", "10%", "30%", "100%"),
    show_default=True,
    help="Size of the memory tier: bytes, or a share of the trace's distinct tokens. Repeatable.",
)
@click.option(
    "--disk",
    "disks",
    multiple=True,
    type=SizeType(),
    default=("0",),
    show_default=True,
    help="Size of the disk tier. Repeatable.",
)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    default=(DEFAULT_POLICY,),
    show_default=True,
    help="Which chunk leaves first. Repeatable.",
)
@click.option(
    "--chunk-tokens",
    "chunk_sizes",
    multiple=True,
    type=click.IntRange(16, 512),
    default=(64,),
    show_default=True,
    help="Tokens of a chunk. Repeatable.",
)
@click.option("--model", help="Folder, config.json or name of the model; an 8B model by default.")
@click.option(
    "--dtype", type=click.Choice(list(ELEMENT_BYTES)), help="KV type, if not the model's."
)
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    help="A tokenizer.json for traces with text; without it each byte is a token.",
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write the rows here.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw hit rates here (PNG, SVG)."
)
def replay_command(
    traces: Sequence[Path],
    memories: Sequence[Size],
    disks: Sequence[Size],
    policies: Sequence[Policy],
    chunk_sizes: Sequence[int],
    model: str | None,
    dtype: str | None,
    tokenizer: Path | None,
    csv_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Replay TRACES through the control plane, and say what was found on which tier.

    A trace is a file of JSON lines or a folder of them: Mooncake's block ids (`hash_ids`), token
    ids (`tokens`) or text (`text`, `input`). All combinations of sizes and policies are replayed.
    No bytes move, so sizes may be larger than this machine.

    \b
    radixkv replay conversation.jsonl
    radixkv replay conversation.jsonl --memory 100GiB --memory 200GiB --disk 1TiB
    radixkv replay conversation.jsonl --policy reuse --policy lru --memory 10%
    radixkv replay agents/ --tokenizer tokenizer.json --csv rows.csv --plot rates.svg
    """
    if dtype is not None and model is None:
        raise click.BadOptionUsage("dtype", "--dtype: expected a --model whose KV is of that type")
    layout = DEFAULT_LAYOUT if model is None else read_model(model, dtype)[1]
    console = Console(stderr=True)
    rows: list[Row] = []
    for path in traces:
        try:
            with console.status(f"reading {escape(str(path))}"):
                trace = read_trace(path, tokenizer)
        except TraceError as error:
            raise click.ClickException(str(error)) from error
        sizes = itertools.product(policies, memories, disks, chunk_sizes)
        rows += _replay_all(trace, sizes, layout, console)
    _print(rows)
    if csv_path:
        try:
            _write_csv(csv_path, rows)
        except OSError as error:
            raise click.ClickException(f"{csv_path}: {error.strerror}") from error
    if plot_path:
        plot(plot_path, [row.values() for row in rows])


def _replay_all(
    trace: Trace,
    sizes: Iterator[tuple[Policy, Size, Size, int]],
    layout: KVLayout,
    console: Console,
) -> list[Row]:
    rows = []
    all_sizes = list(sizes)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(trace.name), total=len(all_sizes) * len(trace.requests))
        for number, (policy, memory, disk, chunk_tokens) in enumerate(all_sizes):
            before = number * len(trace.requests)
            setup = Setup(
                memory.num_tokens(trace, layout),
                disk.num_tokens(trace, layout),
                chunk_tokens,
                policy,
                layout,
            )
            result = replay(
                trace,
                setup,
                on_request=lambda done, before=before: progress.update(  # type: ignore[misc]
                    task, completed=before + done
                ),
            )
            best = optimum(trace, setup.memory_tokens + setup.disk_tokens)
            rows.append(Row(trace.name, memory.text, disk.text, result, ideal(trace), best))
    return rows


def _print(rows: Sequence[Row]) -> None:
    table = Table(caption="recomputed: what infinite memory would have found beside the hits")
    for name in ("trace", "policy", "memory", "disk", "chunk"):
        table.add_column(name)
    for name in ("hits", "memory", "disk", "of optimum", "recomputed", "moved", "evicted"):
        table.add_column(name, justify="right")
    for row in rows:
        result = row.replay
        table.add_row(
            escape(row.trace),
            result.setup.policy,
            row.memory,
            row.disk,
            str(result.setup.chunk_tokens),
            f"{result.hit_rate:.1%}",
            f"{result.memory_hit_tokens / result.num_tokens:.1%}",
            f"{result.disk_hit_tokens / result.num_tokens:.1%}",
            f"{result.hit_tokens / row.optimum_tokens:.1%}" if row.optimum_tokens else "–",
            f"{row.ideal_tokens - result.hit_tokens:,}",
            approximate_size(result.moved_bytes),
            f"{result.evicted_memory_chunks + result.evicted_disk_chunks:,}",
        )
    console = Console(highlight=False)
    if not console.is_terminal:  # nothing is cut off in a file
        console.width = 132
    console.print(table)


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    values = [row.values() for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, values[0].keys())
        writer.writeheader()
        writer.writerows(values)
