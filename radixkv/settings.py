"""What one setting is: how a file writes it, which values are valid, and why one would change it.

Each function below declares a field of a settings dataclass and leaves its `Setting` in the field's
metadata. They return Any so that the field's annotation has the type, as with `dataclasses.field`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radixkv.errors import ConfigError
from radixkv.remote_url import RemoteUrl, parse_remote
from radixkv.units import TIB, format_duration, format_size, parse_duration, parse_size

_LARGEST_BYTES = 1024 * TIB


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one key, beside its default.

    Attributes:
        key: Name in a file, a dot between group and leaf.
        wanted: What a value looks like, for messages and for the printed example.
        reason: What it is and why one would change it.
        is_valid: Whether a field's value has the right type and range.
        from_yaml: Turns a file's value into the field's; may raise ValueError or TypeError.
        to_yaml: The inverse of `from_yaml`; of servers only which they are, without passwords.
        sample: Shown, commented out, in place of a default that is not a constant.
        per_host: A size for the whole host, divided among its ranks.
    """

    key: str
    wanted: str
    reason: str
    is_valid: Callable[[Any], bool]
    from_yaml: Callable[[Any], Any] = lambda value: value
    to_yaml: Callable[[Any], str] = str
    sample: str = ""
    per_host: bool = False
    is_secret: bool = False

    def check(self, value: object, name: str) -> None:
        """Raises ConfigError, under the given name, unless the value is a valid one."""
        if not self.is_valid(value):
            given = "something else" if self.is_secret else repr(value)
            raise ConfigError(f"{name}: expected {self.wanted}, got {given}")


def integer(key: str, default: int, low: int, high: int, reason: str) -> Any:
    """A whole number in low … high."""
    wanted = f"a whole number from {low} to {high}"
    return _declare(default, Setting(key, wanted, reason, _within(low, high, int)))


def fraction(key: str, default: float, low: float, reason: str) -> Any:
    """A number in low … 1."""
    wanted = f"a number from {low} to 1"
    return _declare(default, Setting(key, wanted, reason, _within(low, 1, int, float)))


def size(
    key: str, default: int | Callable[[], int], low: int, reason: str, sample: str = ""
) -> Any:
    """Bytes for the whole host, written "20GiB"."""
    wanted = (
        f"a size such as 20GiB, in Python a number of bytes, from {format_size(low)} to "
        f"{format_size(_LARGEST_BYTES)}"
    )
    setting = Setting(
        key,
        wanted,
        reason,
        _within(low, _LARGEST_BYTES, int),
        from_yaml=lambda value: parse_size(str(value)),
        to_yaml=format_size,
        sample=sample,
        per_host=True,
    )
    return _declare(default, setting)


def duration(key: str, default: float, high: float, reason: str) -> Any:
    """Seconds, written "2s" or "500ms"."""
    wanted = f"a duration such as 2s or 500ms, in Python seconds, at most {format_duration(high)}"
    setting = Setting(
        key,
        wanted,
        reason,
        _within(0, high, int, float),
        from_yaml=lambda value: parse_duration(str(value)),
        to_yaml=format_duration,
    )
    return _declare(default, setting)


def choice(key: str, default: str, others: tuple[str, ...], reason: str) -> Any:
    """One of a few words."""
    words = (default, *others)
    wanted = "one of " + ", ".join(words)
    return _declare(default, Setting(key, wanted, reason, lambda value: value in words))


def switch(key: str, default: bool, reason: str) -> Any:
    """True or false."""
    setting = Setting(
        key,
        "true or false",
        reason,
        lambda value: isinstance(value, bool),
        to_yaml=lambda value: str(value).lower(),
    )
    return _declare(default, setting)


def text(key: str, default: str, reason: str) -> Any:
    """Any text."""
    setting = Setting(
        key,
        "a text",
        reason,
        lambda value: isinstance(value, str),
        to_yaml=lambda value: f'"{value}"',
    )
    return _declare(default, setting)


def folder(key: str, sample: str, reason: str) -> Any:
    """A path or, by default, none; a file's "~" is the user's home."""
    setting = Setting(
        key,
        "a path, in Python a Path",
        reason,
        lambda value: value is None or isinstance(value, Path),
        from_yaml=_path_from_yaml,
        sample=sample,
    )
    return _declare(None, setting)


def servers(key: str, sample: str, reason: str) -> Any:
    """Remote servers, each by its URL; by default none."""
    setting = Setting(
        key,
        "a list of URLs, in Python a tuple of what parse_remote(URL) gives",
        reason,
        lambda value: isinstance(value, tuple) and all(isinstance(url, RemoteUrl) for url in value),
        from_yaml=_servers_from_yaml,
        to_yaml=lambda urls: f"[{'; '.join(map(str, urls))}]",
        sample=sample,
        is_secret=True,
    )
    return _declare((), setting)


def _declare(default: object, setting: Setting) -> Any:
    metadata = {"setting": setting}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _within(low: float, high: float, *kinds: type) -> Callable[[Any], bool]:
    def is_valid(value: Any) -> bool:
        right_type = isinstance(value, kinds) and not isinstance(value, bool)
        return right_type and bool(low <= value <= high)

    return is_valid


def _path_from_yaml(value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise TypeError("not a path")  # an empty one would be the folder that one is in
    return Path(value).expanduser()


def _servers_from_yaml(value: object) -> tuple[RemoteUrl, ...]:
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        raise ConfigError("remotes: expected a list of URLs")  # what was given may be a password
    return tuple(parse_remote(url) for url in value)
