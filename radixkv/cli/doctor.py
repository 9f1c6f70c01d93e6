"""`radixkv doctor`: is this host ready, and what to do if not."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from radixkv.cli.check_disk import check_disk
from radixkv.cli.check_engines import check_engines
from radixkv.cli.check_memory import check_memory
from radixkv.cli.check_remotes import check_remotes
from radixkv.cli.checks import Check, Status, fail, ok
from radixkv.config import CacheConfig
from radixkv.errors import ConfigError

VARIABLE = CacheConfig.ENVIRONMENT_VARIABLE

_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


@click.command(short_help="Is this host ready, and what to do if not.")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Settings to check the host for; by default the file that {VARIABLE} names.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(file: Path | None, as_json: bool) -> None:
    """Check this host, this interpreter and the settings; say what to do about each finding.

    Exits with 1 if it finds what would keep radixkv from starting. The model is not known here: a
    disk that was written for another one, or with another disk.size, is refused only then.

    \b
    radixkv doctor
    radixkv doctor --config radixkv.yaml
    """
    checks = run_checks(file)
    if as_json:
        for check in checks:
            click.echo(json.dumps(dataclasses.asdict(check)))
    else:
        _print(checks)
    if any(check.status is Status.FAIL for check in checks):
        raise SystemExit(1)


def run_checks(file: Path | None) -> list[Check]:
    """All checks, in the order in which they are printed."""
    settings, config = _check_config(file)
    tiers = [*check_memory(config), *check_disk(config), *check_remotes(config)]
    return [*check_engines(), settings, *tiers]


def _check_config(file: Path | None) -> tuple[Check, CacheConfig]:
    source = file or os.environ.get(VARIABLE)
    if not source:
        return ok("settings", f"the defaults ({VARIABLE} is not set)"), CacheConfig()
    try:
        return ok("settings", f"{source}"), CacheConfig.load(source)
    except ConfigError as error:
        advice = "`radixkv config` prints every key; the checks below take the defaults"
        return fail("settings", str(error), advice), CacheConfig()


def _print(checks: list[Check]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        status = f"[{_COLOURS[check.status]}]{check.status}[/]"
        table.add_row(status, check.name, escape(check.finding))
        if check.advice:
            table.add_row("", "", escape(f"→ {check.advice}"))
    Console(highlight=False).print(table)
