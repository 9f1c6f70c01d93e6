"""`radixkv calc`: bytes a token, and how many tokens fit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from radixkv.cli.kv_shape import ELEMENT_BYTES, has_windows, read_model
from radixkv.layout import KVLayout
from radixkv.units import approximate_size, parse_size


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a size holds of a model's KV. Sizes are of the whole host, all ranks together."""

    token_bytes: int
    chunk_tokens: int
    chunk_bytes: int
    size_bytes: int
    num_chunks: int
    num_tokens: int


def capacity(layout: KVLayout, num_ranks: int, size_bytes: int, chunk_tokens: int) -> Capacity:
    """Full chunks that `num_ranks` ranks hold in `size_bytes`, an extent's padding counted.

    Args:
        layout: KV of one token on one rank.
        num_ranks: Ranks that divide the size, each with a part of every chunk.
        size_bytes: Size of a tier on the host.
        chunk_tokens: Tokens in a chunk.
    """
    num_chunks = size_bytes // num_ranks // layout.extent_bytes(chunk_tokens)
    return Capacity(
        token_bytes=layout.token_bytes * num_ranks,
        chunk_tokens=chunk_tokens,
        chunk_bytes=layout.token_bytes * num_ranks * chunk_tokens,
        size_bytes=size_bytes,
        num_chunks=num_chunks,
        num_tokens=num_chunks * chunk_tokens,
    )


def _as_size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(short_help="How many tokens of a model fit into a size.")
@click.argument("model")
@click.option("--size", "size_bytes", default="20GiB", callback=_as_size, show_default=True)
@click.option("--tp", "num_ranks", default=1, type=click.IntRange(1), help="Tensor-parallel ranks.")
@click.option(
    "--dtype", type=click.Choice(list(ELEMENT_BYTES)), help="KV type, if not the model's."
)
@click.option("--chunk-tokens", default=64, type=click.IntRange(16, 512), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def calc(
    model: str, size_bytes: int, num_ranks: int, dtype: str | None, chunk_tokens: int, as_json: bool
) -> None:
    """How many tokens of MODEL's KV fit into a size of memory or disk.

    MODEL is a folder, a config.json, or the hub's name of a model that was downloaded here.

    \b
    radixkv calc ./Llama-3.1-8B-Instruct --size 100GiB
    radixkv calc ./DeepSeek-V3/config.json --size 1TiB --tp 8 --dtype fp8_e4m3
    """
    config, layout = read_model(model, dtype, num_ranks)
    result = capacity(layout, num_ranks, size_bytes, chunk_tokens)
    if as_json:
        click.echo(json.dumps(asdict(result)))
        return
    _print(model, layout, num_ranks, result)
    if has_windows(config):
        click.echo(
            "Layers with sliding windows are served with vLLM alone, from 0.30 on.", err=True
        )


def _print(model: str, layout: KVLayout, num_ranks: int, result: Capacity) -> None:
    kind = "K and V" if layout.num_kv == 2 else "a joint latent"
    ranks = "" if num_ranks == 1 else f", {num_ranks} ranks"
    table = Table.grid(padding=(0, 2))
    table.add_row("model", escape(model))
    table.add_row("KV", f"{layout.num_layers} layers, {kind}, {layout.dtype}{ranks}")
    table.add_row("a token", approximate_size(result.token_bytes))
    table.add_row(
        "a chunk", f"{result.chunk_tokens} tokens, {approximate_size(result.chunk_bytes)}"
    )
    held = f"{result.num_tokens:,} tokens in {result.num_chunks:,} chunks"
    table.add_row(approximate_size(result.size_bytes), held)
    Console(highlight=False).print(table)
