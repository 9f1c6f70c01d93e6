"""Every setting of radixkv: default, unit, range, and the reason to change it.

A YAML file nests the keys (`memory: {size: 20GiB}`), Python has them flat and with their unit in
the name (`memory_size_bytes`). All keys are optional. `radixkv config` prints them commented.
"""

from __future__ import annotations

import difflib
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import yaml

from radixkv import settings
from radixkv.errors import ConfigError
from radixkv.host_memory import usable_memory_bytes
from radixkv.remote_url import RemoteUrl
from radixkv.settings import Setting
from radixkv.units import GIB, MIB

Policy = Literal["reuse", "lru", "fifo", "lfu", "slru", "arc", "cost"]
"""Names of the eviction policies; each is a file `csrc/index/policy_*.cpp`."""

POLICIES: tuple[Policy, ...] = get_args(Policy)
DEFAULT_POLICY: Policy = "reuse"


def default_memory_bytes() -> int:
    """A quarter of the memory that this process may use, in whole MiB, at least 64 MiB."""
    return max(usable_memory_bytes() // 4 // MIB, 64) * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The settings of one cache. Sizes are for the host; `for_rank` divides them.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    ENVIRONMENT_VARIABLE: ClassVar[str] = "RADIXKV_CONFIG"

    chunk_tokens: int = settings.integer(
        "chunk_tokens",
        64,
        16,
        512,
        "Tokens in a chunk, the unit of storage, transfer and eviction. Larger chunks make longer "
        "reads on disk and fewer records; smaller ones waste less where prompts part. A disk "
        "that was written with another value is refused at start.",
    )
    memory_size_bytes: int = settings.size(
        "memory.size",
        default_memory_bytes,
        1 * MIB,
        "Pinned host memory for KV. By default a quarter of the host's RAM. Raise it as far as "
        "the host's other work allows: it is the tier that a request is served from.",
        sample="20GiB",
    )
    memory_numa: Literal["local", "any"] = settings.choice(
        "memory.numa",
        "local",
        ("any",),
        "Where that memory lies: on the NUMA node that the process is bound to, if it is bound to "
        "one (local), or wherever the kernel puts it (any), for when that node has too little.",
    )
    memory_hugepages: Literal["auto", "never"] = settings.choice(
        "memory.hugepages",
        "auto",
        ("never",),
        "Huge pages where the kernel gives them (auto), or none (never), for hosts where "
        "compacting memory stalls other work.",
    )
    disk_path: Path | None = settings.folder(
        "disk.path",
        "/var/lib/radixkv",
        "Folder of the disk tier, on a local NVMe device; without it there is no disk tier. What "
        "it holds is found again after a restart. One engine instance a folder. Its files, which "
        "hold prompts, can be read by the engine's user alone.",
    )
    disk_size_bytes: int = settings.size(
        "disk.size",
        64 * GIB,
        1 * MIB,
        "How much of the disk is used, headers included. Fixed when the folder is first used.",
    )
    disk_durable: Literal["group", "none"] = settings.choice(
        "disk.durable",
        "group",
        ("none",),
        "When a write counts as done: after a sync shared by all writes of a second or 64 MiB "
        "(group), or as soon as the kernel has it (none), which is faster and loses the last "
        "seconds on power loss.",
    )
    disk_io: Literal["auto", "threads"] = settings.choice(
        "disk.io",
        "auto",
        ("threads",),
        "How the disk is read and written: auto takes io_uring where the kernel allows it, and "
        "threads elsewhere. Set it to threads where the attempt alone raises an alarm.",
    )
    remotes: tuple[RemoteUrl, ...] = settings.servers(
        "remotes",
        '["redis://host:6379/0?ttl=60min"]',
        "Servers that other machines share: Redis or Valkey (redis://, rediss:// for TLS, unix://, "
        "redis+sentinel://) and Mooncake's store (mooncake://master:50051). "
        "What is stored here is written there (?write=seen:2 only what two requests had), and what "
        "they have is brought while a request waits. One that is slow or dead is left alone, and "
        "asked again later.",
    )
    prefetch_budget_bytes: int = settings.size(
        "prefetch.budget",
        1 * GIB,
        0,
        "How much may be on its way from disk and remote servers to memory for requests that wait. "
        "0 turns prefetching, and with it reuse from there, off. Raise it for long prompts on a "
        "fast device.",
    )
    prefetch_deadline_s: float = settings.duration(
        "prefetch.deadline",
        2.0,
        600.0,
        "How long a request may wait for its prefetch; after that it is computed. Lower it where "
        "the time to the first token matters more than the work saved.",
    )
    policy: Policy = settings.choice(
        "policy",
        DEFAULT_POLICY,
        POLICIES[1:],
        "Which chunk leaves a full tier first; a prefix never leaves before what continues it. "
        "reuse keeps what was found again the longer the oftener, and learns how long from what "
        "comes back; lru goes by time alone, cost also by what it takes to compute, lfu by how "
        "often it was found, slru tells apart what was found again, arc learns how much, fifo goes "
        "by what was stored first. `radixkv replay` says which one suits your requests.",
    )
    tail_slack: int = settings.integer(
        "tail_slack",
        4,
        0,
        15,
        "A partly filled chunk is dropped once another one covers all but this many of its "
        "tokens. Chat templates change the last few tokens of a turn: raise it if yours changes "
        "more.",
    )
    store_max_inflight: float = settings.fraction(
        "store.max_inflight",
        1.0,
        0.01,
        "Share of the engine's KV slots that stores under way may keep locked; above it a store "
        "is dropped and counted. Lower it if copies are slow and requests wait for slots.",
    )
    store_decode: bool = settings.switch(
        "store.decode",
        True,
        "Whether answers are kept too. They are the next turn's prompt in a conversation; turn it "
        "off where answers are never sent back.",
    )
    gpu_copy: Literal["auto", "kernel", "staged"] = settings.choice(
        "gpu.copy",
        "auto",
        ("kernel", "staged"),
        "How KV moves between memory and a GPU: a kernel that reads and writes memory itself "
        "(kernel), the copy engine and a kernel behind it (staged), or whichever was quicker at "
        "start for as many bytes (auto). Pin it to compare, or where the start must not measure.",
    )
    gpu_blocks: int = settings.integer(
        "gpu.blocks",
        4,
        1,
        32,
        "Multiprocessors that the kernel may take from the model while it reads or writes memory "
        "itself. More move KV no faster on the GPUs measured.",
    )
    metrics: bool = settings.switch(
        "metrics",
        True,
        "Whether counters are offered to Prometheus, where prometheus_client is installed, and to "
        "`radixkv top`.",
    )
    namespace_salt: str = settings.text(
        "namespace_salt",
        "",
        "Caches with different salts share nothing. Change it to start afresh without deleting "
        "files.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = settings.choice(
        "log_level",
        "info",
        ("debug", "warning", "error"),
        "How much radixkv writes to the log.",
    )

    def __post_init__(self) -> None:
        for name, setting in _settings():
            setting.check(getattr(self, name), name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a YAML file; an empty one gives the defaults.

        Raises:
            ConfigError: The file cannot be read, is no YAML, has an unknown key or a wrong value.
        """
        try:
            document = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {_describe_unread(error)}") from error
        if document is None:
            document = {}
        if not isinstance(document, Mapping):
            raise ConfigError(f"{path}: expected keys and values, got {type(document).__name__}")
        try:
            return cls.from_mapping(document)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_environment(cls) -> Self:
        """The file that the environment variable RADIXKV_CONFIG names; without it the defaults."""
        path = os.environ.get(cls.ENVIRONMENT_VARIABLE)
        return cls.load(path) if path else cls()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Settings from nested keys, the way a file has them.

        Raises:
            ConfigError: An unknown key, with the nearest known one, or a wrong value.
        """
        names = {setting.key: (name, setting) for name, setting in _settings()}
        values: dict[str, Any] = {}
        for key, value in _flatten(mapping, {key.split(".")[0] for key in names if "." in key}):
            if key not in names:
                raise ConfigError(_describe_unknown(key, list(names)))
            name, setting = names[key]
            try:
                values[name] = setting.from_yaml(value)
            except ConfigError:
                raise
            except (TypeError, ValueError):
                raise ConfigError(f"{key}: expected {setting.wanted}, got {value!r}") from None
            setting.check(values[name], key)
        return cls(**values)

    def for_rank(self, world_size: int) -> Self:
        """One rank's share of the host, which `world_size` ranks divide.

        Raises:
            ValueError: `world_size` is below 1.
            ConfigError: A share is smaller than the smallest size allowed.
        """
        if world_size < 1:
            raise ValueError(f"world_size: expected at least 1, got {world_size}")
        shares = {
            name: getattr(self, name) // world_size
            for name, setting in _settings()
            if setting.per_host
        }
        try:
            return replace(self, **shares)
        except ConfigError as error:
            raise ConfigError(f"divided by {world_size} ranks, {error}") from error


def example() -> str:
    """A YAML file with every key, its default, its range and the reason to change it."""
    defaults = CacheConfig()
    lines = ["# Settings of radixkv. Every key is optional and stands here with its default."]
    open_group = ""
    for name, setting in _settings():
        group, _, leaf = setting.key.rpartition(".")
        lines.append("")
        if group and group != open_group:
            lines.append(f"{group}:")
        open_group = group
        entry = setting.to_yaml(getattr(defaults, name))
        about = textwrap.wrap(f"{setting.reason} ({setting.wanted})", 92)
        block = [f"# {line}" for line in about]
        block.append(f"# {leaf}: {setting.sample}" if setting.sample else f"{leaf}: {entry}")
        lines += textwrap.indent("\n".join(block), "  " if group else "").split("\n")
    return "\n".join(lines) + "\n"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value!r} stands there a second time"
                raise yaml.constructor.ConstructorError(
                    problem=problem, problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _describe_unread(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error)


def _settings() -> Iterator[tuple[str, Setting]]:
    for spec in fields(CacheConfig):
        yield spec.name, spec.metadata["setting"]


def _flatten(mapping: Mapping[str, Any], groups: set[str]) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and value; one level of groups, an empty group has no pairs."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{leaf}", inner) for leaf, inner in value.items())
        elif key not in groups:
            yield _unnested(str(key)), value
        elif value is not None:
            raise ConfigError(f"{key}: expected keys below it, such as {key}: {{…}}, got {value!r}")


def _unnested(key: str) -> str:
    head, dot, leaf = key.partition(".")
    if dot:
        raise ConfigError(f"unknown key {key!r}: write it nested, {head}: {{{leaf}: …}}")
    return key


def _describe_unknown(key: str, known: list[str]) -> str:
    leaves = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
        leaves[leaf] for leaf in difflib.get_close_matches(key, leaves, n=1, cutoff=0.5)
    ]
    hint = f"the nearest known one is {near[0]!r}" if near else "`radixkv config` prints them all"
    return f"unknown key {key!r}: {hint}"
