"""All that must be equal, beside the tokens, for kept KV to be the KV that a model would compute.

One token tree a namespace. When in doubt, two things get different namespaces: the price is a miss.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

SAMPLES_PER_FILE = 64
SAMPLE_BYTES = 4096
_FILES_AT_ONCE = 16

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_CONFIG_FILES = ("config.json", "params.json")  # the second is Mistral's; engines may prefer it
_SETTINGS_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
_NOT_THE_MODEL = frozenset({"_name_or_path", "transformers_version"})  # config keys free to differ

# What engines are known to compute alike: keys after rope, one row a head, and values as they are.
_ALIKE_MODELS = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_ALIKE_ROPES = frozenset({"default", "linear", "llama3"})


@dataclass(frozen=True, slots=True)
class Namespace:
    """What a token tree belongs to.

    Attributes:
        model: From `model_identity`.
        layout_digest: From `KVLayout.digest`.
        kv_scales: Names the scales of a quantised KV cache; empty without one.
        weight_version: Changes whenever an engine swaps weights while it runs.
        lora: Names the adapter and its weights; empty without one.
        salt: `namespace_salt` of the configuration.
        request_key: What a request adds so as to share only with its like (a tenant, a cache salt).
    """

    model: str
    layout_digest: bytes
    kv_scales: str = ""
    weight_version: str = ""
    lora: str = ""
    salt: str = ""
    request_key: str = ""

    def digest(self) -> bytes:
        """16 bytes that differ wherever any attribute does."""
        digest = hashlib.sha256(b"radixkv-namespace-1")
        for spec in fields(self):
            value = getattr(self, spec.name)
            _add(digest, spec.name, value if isinstance(value, bytes) else value.encode())
        return digest.digest()[:16]


def model_identity(
    model_path: str | os.PathLike[str], overrides: Mapping[str, object] | None = None
) -> str:
    """Identity of a model's weights and of what the engine makes of them.

    Reads the configuration, the code that comes with the model, and of each file of weights its
    name, size, 64 samples of 4 KiB at even distances and, of safetensors, the header and a sample
    of every tensor: some 2 MB of an 8B model. The same files elsewhere have the same identity. A
    change of weights is seen if it touches a sample: of safetensors, if it is spread over even one
    tensor, as that of training, of merged adapters and of edited knowledge is. One of single values
    between the samples is not. A folder without weights is known by its configuration alone.

    Args:
        model_path: Folder with config.json or params.json, or one file of weights (GGUF).
        overrides: What the caller changes about the model, such as quantisation, dtype or rope
            scaling. Values that JSON can write.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: `model_path` is neither such a folder nor a file.
    """
    path = Path(model_path)
    if not path.is_file() and not any((path / name).is_file() for name in _CONFIG_FILES):
        raise ValueError(f"model_path: expected a folder with config.json or a file, got {path}")
    digest = hashlib.sha256(b"radixkv-model-1")
    _add(digest, "overrides", _canonical(dict(overrides or {})))
    if path.is_file():
        digest.update(_weights_digest(path, name=""))
    else:
        _add_folder(digest, path)
    return digest.hexdigest()[:32]


def common_identity(
    model_path: str | os.PathLike[str], kv_dtype: str, num_ranks: int
) -> str | None:
    """Identity of KV that any engine computes from this model, so that engines share it.

    For an engine that takes the model as it is: nothing quantised, overridden or patched, KV in the
    dtype that it computes in. What engines compute agrees but for rounding.

    Args:
        model_path: Folder with config.json.
        kv_dtype: `KVLayout.dtype`.
        num_ranks: Tensor-parallel ranks, which share out the heads.

    Returns:
        32 hexadecimal digits; None where engines may differ, which is wherever it is not known
        that they do not.
    """
    path = Path(model_path)
    if not (path / "config.json").is_file() or (path / "params.json").exists():
        return None
    config = json.loads((path / "config.json").read_bytes())
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    windows = config.get("use_sliding_window", True) and config.get("sliding_window")
    is_alike = (
        config.get("model_type") in _ALIKE_MODELS
        and rope.get("rope_type", rope.get("type", "default")) in _ALIKE_ROPES
        and not windows
        and not any(config.get(key) for key in ("quantization_config", "auto_map"))
    )
    if not is_alike:
        return None
    return model_identity(path, {"any engine": 1, "kv": kv_dtype, "ranks": num_ranks})


def find_model(name: str, revision: str | None = None) -> str:
    """Where the files of a model are: the path itself, or the snapshot of a hub's model.

    Raises:
        OSError: Neither is on this host.
    """
    if os.path.exists(name):
        return name
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, revision=revision, local_files_only=True))


def last_change_s(name: str, *, with_folder: bool = True) -> float:
    """When what an engine reads under a path, or a hub's name, last became what it is.

    That is when a file in it, or a link on the way there, was last written, moved or renamed, by
    the clock of the files. A rename of a folder further up is not seen.

    Args:
        name: As for `find_model`; a file, too.
        with_folder: Whether the folder's own time counts. It alone tells that one was moved here
            whole; but some mounts of object stores say "now" whenever they are asked for it.

    Returns:
        Seconds since the epoch; infinite where there is nothing to be seen.
    """
    try:
        place = Path(find_model(name))
        inside = list(place.iterdir()) if place.is_dir() else []
        found = [*inside, *([place] if with_folder or not inside else [])]
        way = Path(os.path.abspath(name))
        links = [link for link in (way, *way.parents) if link.is_symlink()]
        return max([link.lstat().st_ctime for link in links] + [_changed_s(file) for file in found])
    except (OSError, ValueError, ImportError):
        return math.inf


def _changed_s(path: Path) -> float:
    """When a file, or the link that leads to it, was written, moved or renamed."""
    return max(path.lstat().st_ctime, path.stat().st_ctime if path.exists() else 0.0)


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    files = sorted(folder.iterdir())
    for file in files:
        if file.name in _CONFIG_FILES:
            config = json.loads(file.read_bytes())
            _add(digest, file.name, _canonical(_without(config, _NOT_THE_MODEL)))
        elif file.name in _SETTINGS_FILES:
            _add(digest, file.name, _canonical(json.loads(file.read_bytes())))
        elif file.suffix == ".py":  # remote code decides what the weights mean
            _add(digest, file.name, file.read_bytes())
    weights = [file for file in files if file.suffix in _WEIGHT_SUFFIXES]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:  # reads wait for a disk, or for a network
        for of_file in threads.map(_weights_digest, weights, (file.name for file in weights)):
            digest.update(of_file)


def _weights_digest(file: Path, name: str) -> bytes:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        num_bytes = os.fstat(stream.fileno()).st_size
        header = _header_bytes(stream.read(8), num_bytes) if file.suffix == ".safetensors" else 0
        _add(digest, name, str(num_bytes).encode())
        table = os.pread(stream.fileno(), header, 0)
        _add(digest, "header", table)
        for offset in _sample_offsets(header, num_bytes):
            digest.update(os.pread(stream.fileno(), SAMPLE_BYTES, offset))
        for first, last in _tensors(table):  # from the middle of each
            middle = header + (first + last) // 2
            digest.update(os.pread(stream.fileno(), min(SAMPLE_BYTES, last - first), middle))
    return digest.digest()


def _header_bytes(prefix: bytes, num_bytes: int) -> int:
    """Length of a safetensors header with its 8-byte prefix; 0 where the file is cut short."""
    length = 8 + int.from_bytes(prefix, "little")
    return length if length <= num_bytes else 0


def _sample_offsets(first: int, num_bytes: int) -> Iterable[int]:
    """Even distances, the first and last sample at the ends; the whole payload if it is small."""
    span = max(num_bytes - first - SAMPLE_BYTES, 0)
    if span < SAMPLES_PER_FILE * SAMPLE_BYTES:
        return range(first, num_bytes, SAMPLE_BYTES)
    return (first + span * i // (SAMPLES_PER_FILE - 1) for i in range(SAMPLES_PER_FILE))


def _tensors(table: bytes) -> list[tuple[int, int]]:
    """Where a safetensors header says that the tensors lie, behind it; none if it says nothing."""
    try:
        entries = json.loads(table[8:]).values()
        return sorted(tuple(entry["data_offsets"]) for entry in entries if "data_offsets" in entry)
    except (ValueError, TypeError, AttributeError):
        return []


def _without(config: object, names: frozenset[str]) -> object:
    if isinstance(config, dict):
        return {key: _without(value, names) for key, value in config.items() if key not in names}
    return config


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add(digest: hashlib._Hash, name: str, value: bytes) -> None:
    """Adds a named value; lengths stand before both, so that no two records run into each other."""
    for part in (name.encode(), value):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
