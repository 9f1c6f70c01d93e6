"""`radixkv top`: what a cache in a running engine is doing, as it goes on."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from radixkv.status import Status, ask, find_servers, pid_of
from radixkv.units import approximate_size

_RATES = ("stored", "loaded", "fetched", "spilled", "put", "got")


@click.command(short_help="What a running cache keeps and moves, as it goes on.")
@click.option("--pid", type=int, help="Of the process that has the cache, where there are several.")
@click.option(
    "--every",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
def top(pid: int | None, interval_s: float, once: bool) -> None:
    """Show the tiers, what moves, and the largest subtrees of a cache on this machine.

    Finds caches of processes that run as the same user (settings: `metrics`); all that a process
    has are shown, one below the other. Shares of subtrees are estimates from a sample, so that a
    look costs the engine next to nothing.
    """
    chosen = _choose(pid)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    before: dict[Path, Status] = {}
    try:
        if once:
            console.print(_render_all(_look(chosen), {}))
            return
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                now = _look(chosen)
                live.update(_render_all(now, before), refresh=True)
                before = now
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _choose(pid: int | None) -> int:
    """The process to look at."""
    pids = sorted({pid_of(path) for path in find_servers() if pid in (None, pid_of(path))})
    if not pids:
        whose = "of this user" if pid is None else f"in process {pid}"
        raise click.ClickException(f"no cache {whose} answers; is `metrics` on in its settings?")
    if len(pids) > 1:
        these = ", ".join(str(one) for one in pids)
        raise click.ClickException(f"several processes have a cache: choose one by --pid: {these}")
    return pids[0]


def _look(pid: int) -> dict[Path, Status]:
    """What the caches of a process tell; they come and go."""
    found = {}
    for path in find_servers():
        if pid_of(path) != pid:
            continue
        try:
            status = ask(path)
        except (FileNotFoundError, ConnectionError):  # closed meanwhile
            continue
        except OSError as error:
            raise click.ClickException(f"process {pid} does not answer: {error}") from error
        if status:
            found[path] = status
    if not found:
        raise click.ClickException(f"process {pid} has no cache any more")
    return found


def _render_all(now: dict[Path, Status], before: dict[Path, Status]) -> RenderableType:
    return Group(*(render(status, before.get(path)) for path, status in now.items()))


def render(status: Status, before: Status | None) -> RenderableType:
    """One look; rates are those since the look before."""
    head = Text.assemble(
        (f"radixkv, process {status['pid']}", "bold"),
        f"  policy {status['policy']}, chunks of {status['chunk_tokens']} tokens,"
        f" {status['chunks']:,} chunks, {status['levels']['kept_tokens']:,} tokens,"
        f" {status['levels']['pins']:,} pins",
    )
    return Group(head, _tiers(status), _moved(status, before), _subtrees(status))


def _tiers(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("tier", "", "used", "of", "chunks", "writing", "evicted", "failed"):
        table.add_column(name, justify="left" if name in ("tier", "") else "right")
    for name, tier in status["tiers"].items():
        used, size = (status["levels"][f"{name}_{what}_bytes"] for what in ("used", "size"))
        if not size:
            continue
        bar = ProgressBar(total=size, completed=used, width=30)
        sizes = (approximate_size(int(used)), approximate_size(int(size)))
        counts = (f"{tier[key]:,}" for key in ("ready", "writing", "evicted", "failed"))
        table.add_row(name, bar, *sizes, *counts)
    return table


def _moved(status: Status, before: Status | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("moved", "tokens", "tokens/s", "bytes/s"):
        table.add_column(name, justify="left" if name == "moved" else "right")
    for name in _RATES:
        total = status["counters"][name]
        rate = 0.0
        if before is not None and status["time_s"] > before["time_s"]:
            grown = total - before["counters"][name]
            rate = grown / (status["time_s"] - before["time_s"])
        speed = approximate_size(int(rate * status["token_bytes"]))
        table.add_row(name, f"{total:,}", *((f"{rate:,.0f}", speed) if before else ("–", "–")))
    wrong = {name: n for name, n in status["counters"].items() if n and name not in _RATES}
    if wrong:
        table.caption = ", ".join(f"{name} {count:,}" for name, count in wrong.items())
    return table


def _subtrees(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("subtree", "shares", "kept", "in memory", "found"):
        table.add_column(name, justify="left" if name == "subtree" else "right")
    for subtree in status["subtrees"]:
        head = " ".join(str(token) for token in subtree["head"])
        name = f"{'  ' * subtree['level']}{subtree['namespace']}: {head} …"
        share, in_memory = (f"{subtree[key]:.1%}" for key in ("share", "memory_share"))
        table.add_row(name, f"{subtree['end']:,}", share, in_memory, f"{subtree['uses']:.1f}")
    return table
