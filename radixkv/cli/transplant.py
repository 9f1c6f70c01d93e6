"""`radixkv export`, `radixkv import`: what a disk tier holds, taken to another machine."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

from radixkv.cache import KVCache
from radixkv.chunk_file import ChunkFile, ChunkFileWriter, StoredForm
from radixkv.config import CacheConfig
from radixkv.errors import ChunkFileError, RadixKVError, TierError
from radixkv.group import RankGroup
from radixkv.host_memory import available_memory_bytes
from radixkv.index import RadixIndex
from radixkv.layout import OpaqueLayout
from radixkv.restore import fingerprints, in_common
from radixkv.ticks import TickRow
from radixkv.tiers.disk import DiskInspection, RestoredChunks, disk_file, inspect_folder
from radixkv.transplant import DiskPayloads, Transplanted, import_chunks, write_chunks
from radixkv.units import MIB, approximate_size, parse_size

Value = TypeVar("Value")

# Of each rank, to pass through: as much as the longest prompt needs, which is in memory as a whole
# before its last chunk can be on the disk; but no more than half of what is free.
_LEAST_MEMORY_BYTES = 256 * MIB
_SPARE_CHUNKS = 16


@click.command("export", short_help="Write what a disk tier holds to a file.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--namespace", metavar="HEX", help="Only that whose digest begins so (see inspect).")
@click.option(
    "--prefix-tokens",
    metavar="IDS",
    help="Only what begins with these tokens: 1,2,3 or @FILE with such numbers.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")
def export_command(
    folder: Path, file: Path, namespace: str | None, prefix_tokens: str | None, as_json: bool
) -> None:
    """Write the chunks of the disk tier in FOLDER, tokens and bytes, to FILE.

    Takes no lock: it may run beside the engine that uses the folder, and leaves out what is
    replaced meanwhile. Every chunk's checksum is compared. FILE has its name only once it is whole
    and on the disk. Of several ranks each has a file, FILE.rank0 and so on.

    \b
    radixkv export /var/lib/radixkv kv.chunks
    radixkv export /var/lib/radixkv kv.chunks --prefix-tokens @system-prompt.json
    """
    tokens = _parse_tokens(prefix_tokens)
    if namespace == "":
        raise click.BadParameter("expected the beginning of a digest", param_hint="--namespace")
    try:
        files = inspect_folder(folder)
        done = _export(files, file, namespace, tokens)
    except TierError as error:
        raise click.ClickException(error.reason) from error
    except (RadixKVError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _report("exported", done, as_json)


@click.command("import", short_help="Put what was exported into a disk tier.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", metavar="SIZE", help="disk.size of a folder that is made now, as 1TiB.")
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")
def import_command(file: Path, folder: Path, size: str | None, as_json: bool) -> None:
    """Put the chunks of FILE, which `radixkv export` wrote, into the disk tier in FOLDER.

    For a machine whose engine is to begin warm: the folder is made if it is missing, and is one for
    the engine that the chunks are of. No engine may use it meanwhile. Every chunk's checksum is
    compared; where there is not room for all, what was used last is kept. May be repeated.

    \b
    radixkv import kv.chunks /var/lib/radixkv --size 1TiB
    """
    try:
        forms = _forms(file)
        longest = _longest_path(file)
        config = _config(folder, size, forms[0], longest)
        done = _import(file, forms, config)
    except TierError as error:
        raise click.ClickException(error.reason) from error
    except (RadixKVError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _report("imported", done, as_json)
    _say_what_was_cut(config, forms[0], longest)


def _parse_tokens(option: str | None) -> NDArray[np.uint32]:
    """ "1,2,3", or a file with that or a JSON list of them. Nothing else is a prefix, an empty text
    neither: what was misread would be exported as another one, or as everything."""
    if option is None:
        return np.empty(0, np.uint32)
    try:
        text = Path(option[1:]).read_text() if option.startswith("@") else option
        words = re.split(r"\s*,\s*|\s+", text.strip().removeprefix("[").removesuffix("]").strip())
        return np.array([int(word) for word in words], np.uint32)
    except (OSError, ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"expected token ids such as 1,2,3 or @FILE with such numbers ({error})",
            param_hint="--prefix-tokens",
        ) from error


def _export(
    files: list[DiskInspection], path: Path, namespace: str | None, tokens: NDArray[np.uint32]
) -> Transplanted:
    """Writes a file a rank; all have the same chunks."""
    if len(files) != files[0].world_size:
        raise ChunkFileError(
            f"{files[0].path.parent}: has {len(files)} of {files[0].world_size} ranks' files"
        )
    chunks = files[0].chunks
    if len(files) > 1:
        chunks = in_common(chunks, [fingerprints(file.chunks) for file in files])
    digests = [
        one for one in chunks.digests if namespace is None or one.hex().startswith(namespace)
    ]
    if not digests:
        found = ", ".join(digest.hex() for digest in chunks.digests) or "none"
        raise ChunkFileError(f"there is no such namespace, of: {found}")
    results = []
    with ExitStack() as stack, _bar() as progress:
        writers = []
        for file in files:
            form = _form_of(file)
            own = path if len(files) == 1 else path.with_name(f"{path.name}.rank{file.rank}")
            writer = stack.enter_context(ChunkFileWriter(own, form))
            writers.append(writer)
            index = _index_of(file, form, chunks)
            payloads = DiskPayloads(file)
            for digest in digests:
                task = progress.add_task(f"rank {file.rank}", total=None)
                subtree = index.walk(tokens, index.namespace(digest), with_path=True)
                show = partial(_show, progress, task)
                done = write_chunks(writer, subtree, digest, None, payloads, progress=show)
                results += [done] if file.rank == 0 else []
        if len({writer.digest for writer in writers}) > 1:
            raise ChunkFileError("a rank's file is damaged: see radixkv inspect --verify")
        for writer in writers:
            writer.commit()
    return _sum(results)


def _form_of(file: DiskInspection) -> StoredForm:
    """What its bytes mean. A token's size is told by the first chunk that is whole."""
    token_bytes = 0
    for row, count in enumerate(file.chunks.num_tokens.tolist()):
        if (payload := file.read(row)) is not None:
            token_bytes = len(payload) // count
            break
    return StoredForm(
        file.layout_digest, file.chunk_tokens, token_bytes, file.rank, file.world_size
    )


def _index_of(file: DiskInspection, form: StoredForm, chunks: RestoredChunks) -> RadixIndex:
    index = RadixIndex(
        file.chunk_tokens,
        max(1, form.token_bytes),
        disk_bytes=file.capacity_units * file.unit_bytes,
        unit_bytes=file.unit_bytes,
    )
    index.restore_disk(
        chunks.parent_index,
        chunks.num_tokens,
        chunks.tokens,
        chunks.disk_offset,
        chunks.num_units,
        chunks.namespace_index,
        chunks.digests,
        chunks.sequence,
    )
    return index


def _forms(path: Path) -> list[StoredForm]:
    """Of the file, or of each rank's."""
    if path.exists():
        with ChunkFile(path) as file:
            return [file.form]
    forms: list[StoredForm] = []
    while (own := path.with_name(f"{path.name}.rank{len(forms)}")).exists():
        with ChunkFile(own) as file:
            forms.append(file.form)
    if not forms:
        raise FileNotFoundError(f"{path}: no such file")
    if len(forms) != forms[0].world_size:
        raise ChunkFileError(f"{path}: there are {len(forms)} of {forms[0].world_size} files")
    return forms


def _longest_path(path: Path) -> int:
    with ChunkFile(path if path.exists() else path.with_name(f"{path.name}.rank0")) as file:
        return file.longest_path()


def _config(folder: Path, size: str | None, form: StoredForm, longest: int) -> CacheConfig:
    """A cache that brings what it is given to the disk, and nothing else."""
    existing = disk_file(folder, form.rank)
    if existing.exists():
        size_bytes = existing.stat().st_size * form.world_size
    elif size is None:
        raise ChunkFileError(f"{folder}: there is no disk tier yet: say how large with --size")
    else:
        size_bytes = _parse_size(size)
    chunk_bytes = _extent_bytes(form)
    wanted = max(_LEAST_MEMORY_BYTES, (longest + _SPARE_CHUNKS) * chunk_bytes)
    least = max(_LEAST_MEMORY_BYTES, _SPARE_CHUNKS * chunk_bytes)
    memory_bytes = max(min(wanted, available_memory_bytes() // 2 // form.world_size), least)
    return CacheConfig(
        chunk_tokens=form.chunk_tokens,
        memory_size_bytes=form.world_size * memory_bytes,
        disk_path=folder,
        disk_size_bytes=size_bytes,
        metrics=False,
    )


def _extent_bytes(form: StoredForm) -> int:
    """What a full chunk takes of a rank's tier."""
    layout = OpaqueLayout.of_tokens(form.token_bytes, form.layout_digest)
    return layout.extent_bytes(form.chunk_tokens)


def _say_what_was_cut(config: CacheConfig, form: StoredForm, longest: int) -> None:
    held = config.memory_size_bytes // form.world_size // _extent_bytes(form)
    if held < longest:
        size = approximate_size(config.memory_size_bytes)
        tokens = held * form.chunk_tokens
        click.echo(
            f"prompts of more than {tokens:,} tokens were cut there: they have to pass through "
            f"memory, and of this host's {size} are free for that",
            err=True,
        )


def _parse_size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from error


def _import(path: Path, forms: list[StoredForm], config: CacheConfig) -> Transplanted:
    """Every rank is a thread here, with a cache of its own."""
    meeting = _Meeting(len(forms))
    results: list[Transplanted] = []
    errors: list[BaseException] = []
    with _bar() as progress:
        task = progress.add_task("import", total=None)

        def run(form: StoredForm) -> None:
            group = _ThreadGroup(meeting, form)
            layout = OpaqueLayout.of_tokens(form.token_bytes, form.layout_digest)
            try:
                with KVCache(layout, config, group=group) as cache:
                    done = _import_all(path, cache, group, partial(_show, progress, task))
                if form.rank == 0:
                    results.append(done)
            except BaseException as error:
                if not isinstance(error, threading.BrokenBarrierError):
                    errors.append(error)
                meeting.barrier.abort()

        threads = [threading.Thread(target=run, args=(form,)) for form in forms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _import_all(
    path: Path, cache: KVCache, group: RankGroup, progress: Callable[[int, int], None]
) -> Transplanted:
    own = path if group.size == 1 else path.with_name(f"{path.name}.rank{group.rank}")
    with ChunkFile(own) as file:
        digests = file.digests
    parts = (cache.planner, cache.executor, group)
    settle = partial(cache.settle, math.inf)
    return _sum(
        [import_chunks(path, one, *parts, settle=settle, progress=progress) for one in digests]
    )


class _Meeting:
    """Where the ranks' threads exchange values; one that fails breaks it for all."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.values: list[Any] = [None] * size


class _ThreadGroup(RankGroup):
    """The group of ranks as one thread sees it."""

    def __init__(self, meeting: _Meeting, form: StoredForm) -> None:
        self._meeting = meeting
        self.rank, self.size = form.rank, form.world_size

    def gather(self, value: Value) -> list[Value]:
        self._meeting.values[self.rank] = value
        self._meeting.barrier.wait()
        values = list(self._meeting.values)
        self._meeting.barrier.wait()
        return values

    def minimum(self, row: TickRow) -> TickRow:
        lowest: TickRow = np.min(self.gather(row), axis=0)
        return lowest


def _bar() -> Progress:
    return Progress(console=Console(stderr=True), transient=True)


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    if done % 64 == 0 or done == total:
        progress.update(task, completed=done, total=total)


def _sum(parts: list[Transplanted]) -> Transplanted:
    return Transplanted(
        sum(part.num_chunks for part in parts),
        sum(part.num_tokens for part in parts),
        sum(part.num_damaged for part in parts),
        sum(part.num_left for part in parts),
    )


def _report(what: str, done: Transplanted, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)))
        return
    click.echo(f"{what} {done.num_chunks:,} chunks, {done.num_tokens:,} tokens")
    if done.num_damaged:
        click.echo(f"{done.num_damaged:,} were damaged and left out, with what continues them")
    if done.num_left:
        click.echo(f"{done.num_left:,} were left out, or are there already")
