"""`radixkv config`: print the commented settings, or check a file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from radixkv.config import CacheConfig, example
from radixkv.errors import ConfigError


@click.command(short_help="Print every setting and its reason, or check a file.")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
def config(file: Path | None) -> None:
    """Print every setting with default, range and reason; or check FILE.

    \b
    radixkv config > radixkv.yaml     a file to start from
    radixkv config radixkv.yaml       what it sets, or what is wrong with it
    """
    if file is None:
        click.echo(example(), nl=False)
        return
    try:
        settings = CacheConfig.load(file)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{file} is valid; * marks what is not the default", err=True)
    for line in describe(settings):
        click.echo(line)


def describe(settings: CacheConfig) -> list[str]:
    """One line a setting, as a file would write it; an asterisk marks what is not the default."""
    defaults = CacheConfig()
    lines = []
    for spec in fields(CacheConfig):
        value = getattr(settings, spec.name)
        setting = spec.metadata["setting"]
        mark = " " if value == getattr(defaults, spec.name) else "*"
        lines.append(f"{mark} {setting.key:<20} {'~' if value is None else setting.to_yaml(value)}")
    return lines
