"""What the demo shows: a line a turn while it runs, and tables at its end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .engines import Answer, Engine

console = Console(highlight=False)


def section(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def show_turn(number: int, total: int, title: str) -> None:
    console.print(f"[cyan]{number:>3}/{total}[/cyan] {escape(title)}")


def show_answer(text: str, answer: Answer) -> None:
    if text:
        console.print(f"        [italic]{escape(' '.join(text.split()))}[/italic]")
    console.print(
        f"        first token after {answer.first_token_s:.2f} s: {describe_sources(answer)}",
        style="dim",
    )


def describe_sources(answer: Answer) -> str:
    sources = {
        "from the device": answer.device_tokens,
        "from memory": answer.memory_tokens,
        "from disk": answer.disk_tokens,
        "computed": answer.computed_tokens,
    }
    parts = [f"{count:,} {name}" for name, count in sources.items() if count > 0]
    return f"{answer.prompt_tokens:,} tokens of prompt, {', '.join(parts)}"


def show_comparison(
    titles: Sequence[str], alone: Sequence[Answer], cached: Sequence[Answer], name: str
) -> None:
    """A row a turn: tokens of its prompt and where they came from, time to the first token."""
    table = Table(title=name, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.padding, table.show_edge = 0, False
    table.add_column("turn", overflow="ellipsis", no_wrap=True, width=turn_width())
    for column in ("prompt", "device", "memory", "disk", "computed"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for column in ("without", "with", "faster", "same"):
        table.add_column(column, justify="right", no_wrap=True, min_width=max(len(column), 6))
    for title, a, b in zip(titles, alone, cached, strict=True):
        table.add_row(
            escape(title), *count_cells(b), *time_cells(a, b), "yes" if a.ids == b.ids else "NO"
        )
    table.add_section()
    same = sum(a.ids == b.ids for a, b in zip(alone, cached, strict=True))
    table.add_row(
        "all turns", *sum_cells(cached), *mean_cells(alone, cached), f"{same}/{len(alone)}"
    )
    console.print()
    console.print(table)
    console.print(
        "prompt, device, memory, disk, computed: tokens; without, with: time to the first token "
        "(in the last row the mean); same: whether the answer is the same",
        style="dim",
    )


def show_differences(
    titles: Sequence[str], alone: Sequence[Answer], cached: Sequence[Answer]
) -> bool:
    """Says where answers part, token by token; true if there are any that do."""
    differ = False
    for title, a, b in zip(titles, alone, cached, strict=True):
        if a.ids == b.ids:
            continue
        differ = True
        shared = 0
        while shared < min(len(a.ids), len(b.ids)) and a.ids[shared] == b.ids[shared]:
            shared += 1
        console.print(
            f"{title}: {shared} tokens are the same, then come {a.ids[shared:]} without "
            f"radixkv and {b.ids[shared:]} with it",
            markup=False,
        )
    return differ


def turn_width() -> int:
    """What the columns of numbers leave of the terminal for the first one."""
    return min(max(console.width - 66, 12), 60)


def count_cells(answer: Answer) -> list[str]:
    counts = (answer.device_tokens, answer.memory_tokens, answer.disk_tokens)
    found = [f"{count:,}" if count else "–" for count in counts]
    return [f"{answer.prompt_tokens:,}", *found, f"{answer.computed_tokens:,}"]


def time_cells(alone: Answer, cached: Answer) -> list[str]:
    faster = alone.first_token_s / cached.first_token_s
    return [f"{alone.first_token_s:.2f} s", f"{cached.first_token_s:.2f} s", f"{faster:.1f} ×"]


def sum_cells(answers: Sequence[Answer]) -> list[str]:
    sums = (
        sum(answer.prompt_tokens for answer in answers),
        sum(answer.device_tokens for answer in answers),
        sum(answer.memory_tokens for answer in answers),
        sum(answer.disk_tokens for answer in answers),
        sum(answer.computed_tokens for answer in answers),
    )
    return [f"{count:,}" for count in sums]


def mean_cells(alone: Sequence[Answer], cached: Sequence[Answer]) -> list[str]:
    without = sum(answer.first_token_s for answer in alone) / len(alone)
    with_it = sum(answer.first_token_s for answer in cached) / len(cached)
    return [f"{without:.2f} s", f"{with_it:.2f} s", f"{without / with_it:.1f} ×"]


def show_gpu_lines(engine: Engine) -> None:
    section("The same on a GPU")
    for line in engine.on_a_gpu:
        console.print(f"  {line}", markup=False, soft_wrap=True)
