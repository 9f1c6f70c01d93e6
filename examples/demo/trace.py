"""Recorded prompts: JSON lines with the text in `input`, in one file or in a folder of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .errors import DemoError

Ids = list[int]


class Encoder(Protocol):
    """As much of a model as a trace needs."""

    @property
    def context_length(self) -> int: ...

    def encode(self, text: str) -> Ids: ...


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace; `title` says which."""

    title: str
    text: str
    timestamp: float


class Trace:
    """The first requests of a trace as turns; each is one prompt, whatever was answered before.

    Prompts that are longer than the model's context, less room for the answer, lose their end;
    `num_cut` and `num_tokens_cut` say how much.
    """

    def __init__(
        self, requests: list[Request], model: Encoder, *, max_requests: int, reserve_tokens: int
    ) -> None:
        self.num_cut = self.num_tokens_cut = 0
        self.titles: list[str] = []
        self._prompts: list[Ids] = []
        limit = model.context_length - reserve_tokens
        for request in requests[:max_requests]:
            ids = model.encode(request.text)
            if len(ids) > limit:
                self.num_cut += 1
                self.num_tokens_cut += len(ids) - limit
            self.titles.append(request.title)
            self._prompts.append(ids[:limit])

    def prompt(self, turn: int, answers: Mapping[int, Ids]) -> Ids:
        return self._prompts[turn]


def read_requests(path: Path) -> list[Request]:
    """The requests of a file or of a folder's *.jsonl files, in the order of their `timestamp`.

    Raises:
        DemoError: There are none, or a line is not what it should be; names file and line.
    """
    path = path.expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise DemoError(f"{path}: no *.jsonl file in this folder")
    elif path.exists():
        files = [path]
    else:
        raise DemoError(f"{path}: no such file or folder")
    requests = [request for file in files for request in _read_file(file)]
    if not requests:
        raise DemoError(f"{path}: empty, there is no request to replay")
    return sorted(requests, key=lambda request: request.timestamp)


def _read_file(file: Path) -> Iterator[Request]:
    try:
        # Bytes: a text's lines would also end at characters that JSON allows within a string.
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise DemoError(f"{file}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _read_line(line, f"{file.stem[:8]}:{number}", where=f"{file}, line {number}")


def _read_line(line: bytes, title: str, *, where: str) -> Request:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise DemoError(f"{where}: not UTF-8") from error
    except json.JSONDecodeError as error:
        raise DemoError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    text = record.get("input") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text:
        raise DemoError(f'{where}: expected an object with a text in "input"')
    timestamp = record.get("timestamp", 0)
    if not isinstance(timestamp, int | float):
        raise DemoError(f'{where}: expected a number in "timestamp", got {timestamp!r}')
    return Request(title, text, timestamp)
