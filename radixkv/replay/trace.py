"""Recorded requests, read from JSON lines.

A line is one request, an object with the prompt in one of three forms:

    hash_ids, input_length    ids of the prompt's 512-token blocks, equal where the whole prefix is
                              equal, and the number of tokens: the form of Mooncake's traces
    tokens                    token ids; prompt_token_ids and input_ids mean the same
    text                      the prompt itself; input and prompt mean the same. Without a tokenizer
                              each byte of it is a token

and, if it has one, a `timestamp`, by which the requests are ordered. Everything else is ignored,
and so is a key whose value is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixkv.errors import RadixKVError
from radixkv.replay.segments import Segments

MOONCAKE_BLOCK_TOKENS = 512
MOST_BLOCKS = (1 << 32) // MOONCAKE_BLOCK_TOKENS  # whose tokens all differ
_TOKEN_KEYS = ("tokens", "prompt_token_ids", "input_ids")
_TEXT_KEYS = ("text", "input", "prompt")
_LAST_ID = (1 << 32) - 1

Ids = NDArray[np.uint32]
Tokenizer = Callable[[str], Ids]


class TraceError(RadixKVError):
    """A trace cannot be read; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        ids: One id for each block of the trace's `block_tokens` tokens. Shape: (num_blocks,).
        num_tokens: Tokens of the prompt; the last block may be shorter than the others.
        timestamp: When it came, in the trace's own unit.
    """

    ids: Ids
    num_tokens: int
    timestamp: float = 0.0


@dataclass(frozen=True)
class Trace:
    """Requests in the order in which they came.

    Attributes:
        name: What reports call it.
        requests: The prompts.
        block_tokens: Tokens that one id of a request stands for.
    """

    name: str
    requests: list[Request] = field(repr=False)
    block_tokens: int = 1

    def tokens(self, request: Request) -> Ids:
        """The prompt's tokens: where ids stand for blocks, tokens that are equal where they are.

        Returns:
            Shape: (request.num_tokens,), uint32.
        """
        if self.block_tokens == 1:
            return request.ids
        within = np.arange(self.block_tokens, dtype=np.uint32)
        blocks = request.ids[:, None] * np.uint32(self.block_tokens) + within
        return blocks.reshape(-1)[: request.num_tokens]

    @cached_property
    def segments(self) -> Segments:
        """The prefix tree of all requests, for what can only be known afterwards."""
        prompts = ((request.ids, request.num_tokens) for request in self.requests)
        return Segments(prompts, self.block_tokens)

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(request.num_tokens for request in self.requests)

    @property
    def num_distinct_tokens(self) -> int:
        """Tokens that a cache without end would keep."""
        return self.segments.num_tokens


def read_trace(path: Path, tokenizer: Path | None = None) -> Trace:
    """Reads a file of JSON lines, or all `*.jsonl` of a folder as one trace.

    Args:
        path: File or folder.
        tokenizer: A tokenizer.json for traces with text; the package `tokenizers` reads it.

    Raises:
        TraceError: Nothing is there, a line is not what this module says, or two forms are mixed.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    encode = _load_tokenizer(tokenizer) if tokenizer else _encode_bytes
    number_of: dict[object, int] = {}
    requests: list[Request] = []
    kinds: set[bool] = set()
    for file in files:
        for where, line in _lines(file):
            kinds.add(line.get("hash_ids") is not None)
            try:
                requests.append(_parse(line, encode, number_of))
            except (TypeError, ValueError, OverflowError) as error:
                raise TraceError(f"{where}: {error}") from error
    if len(kinds) > 1:
        raise TraceError(f"{path}: some lines have hash_ids, others have not")
    if not requests:
        raise TraceError(f"{path}: no requests there")
    if not any(request.num_tokens for request in requests):
        raise TraceError(f"{path}: all prompts there are empty")
    requests.sort(key=lambda request: request.timestamp)
    return Trace(path.stem, requests, MOONCAKE_BLOCK_TOKENS if True in kinds else 1)


def _lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # a mark of its encoding may stand first
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{file}: expected JSON lines in UTF-8 ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{file}:{number}: {error}") from error
        if not isinstance(parsed, dict):
            raise TraceError(f"{file}:{number}: expected an object")
        yield f"{file}:{number}", parsed


def _parse(line: Mapping[str, Any], encode: Tokenizer, number_of: dict[object, int]) -> Request:
    timestamp = _number("timestamp", line.get("timestamp") or 0)
    if line.get("hash_ids") is not None:
        ids, num_tokens = _block_ids(line["hash_ids"], line.get("input_length"), number_of)
        return Request(ids, num_tokens, timestamp)
    for key in _TOKEN_KEYS:
        if line.get(key) is not None:
            tokens = _token_ids(key, line[key])
            return Request(tokens, len(tokens), timestamp)
    for key in _TEXT_KEYS:
        if isinstance(line.get(key), str):
            tokens = encode(line[key])
            return Request(tokens, len(tokens), timestamp)
    raise ValueError("expected hash_ids, tokens or text")


def _number(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key}: expected a number, got {value!r}")
    return number


def _block_ids(blocks: object, length: Any, number_of: dict[object, int]) -> tuple[Ids, int]:
    """The ids of a prompt's blocks and its number of tokens."""
    if not isinstance(blocks, list):
        raise ValueError("hash_ids: expected a list of ids")
    if length is None:
        raise ValueError("hash_ids: expected input_length beside them")
    if not all(isinstance(block, int | float | str) for block in blocks):
        raise ValueError("hash_ids: expected numbers or texts")
    num_tokens = int(_number("input_length", length))
    if num_tokens < 0 or len(blocks) != -(-num_tokens // MOONCAKE_BLOCK_TOKENS):
        wanted = f"expected one for each {MOONCAKE_BLOCK_TOKENS}"
        raise ValueError(f"hash_ids: {len(blocks)} ids for {num_tokens} tokens, {wanted}")
    # A last block that is not full is no other's beginning: what it goes on with nobody knows.
    num_over = num_tokens % MOONCAKE_BLOCK_TOKENS
    names: list[object] = [*blocks[:-1], (blocks[-1], num_over)] if num_over else blocks
    # Numbered anew, so that tokens made of them fit into 32 bits whatever the ids are.
    ids = [number_of.setdefault(name, len(number_of)) for name in names]
    if len(number_of) > MOST_BLOCKS:
        raise ValueError(f"hash_ids: the {MOST_BLOCKS + 1}th different one, no more fit")
    return np.array(ids, np.uint32), num_tokens


def _token_ids(key: str, value: object) -> Ids:
    try:
        ids = np.array(value)
    except ValueError:  # lists of several lengths
        ids = np.empty((0, 0))
    if ids.size == 0 and value == []:
        return np.empty(0, np.uint32)
    if ids.ndim != 1 or ids.dtype.kind != "i" or ids.min() < 0 or ids.max() > _LAST_ID:
        raise ValueError(f"{key}: expected whole numbers from 0 to {_LAST_ID}")
    return ids.astype(np.uint32)


def _encode_bytes(text: str) -> Ids:
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint32)


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as FileTokenizer
    except ImportError as error:
        raise TraceError("a tokenizer needs the package tokenizers: pip install it") from error
    try:
        loaded = FileTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise TraceError(f"{path}: {error}") from error
    return lambda text: np.array(loaded.encode(text).ids, np.uint32)
