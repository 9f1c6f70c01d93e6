"""Which namespace an engine's KV belongs to: the model, its arguments and adapters, the weights of
today.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from radixkv import (
    CacheConfig,
    KVLayout,
    Namespace,
    RankGroup,
    common_identity,
    find_model,
    last_change_s,
    model_identity,
)
from sglang_ext.arguments import decided

logger = logging.getLogger(__name__)

# Arguments that change the KV of given tokens, beside the weights.
_MODEL_ARGUMENTS = (
    "dtype",
    "kv_cache_dtype",
    "quantization",
    "quantization_param_path",
    "json_model_override_args",
    "revision",
    "load_format",
    "tp_size",
    "random_seed",
    "torchao_config",
)

_ADAPTER_SUFFIXES = (".safetensors", ".bin", ".pt")

_CHANGED = "its files are younger than this process, which may have read others"

# Where these are all that is set, SGLang takes the model as it is.
_AS_IT_IS: dict[str, tuple[object, ...]] = {
    "kv_cache_dtype": ("auto",),
    "quantization": (None,),
    "quantization_param_path": (None,),
    "json_model_override_args": (None, "", "{}"),
    "load_format": ("auto", "safetensors"),
    "torchao_config": (None, ""),
    "model_impl": (None, "auto"),
    "decrypted_config_file": (None, ""),
}


def engine_namespace(
    args: Any, layout: KVLayout, config: CacheConfig, group: RankGroup, began_s: float
) -> Namespace:
    """The namespace of an engine that starts now, the same on every rank.

    Args:
        args: SGLang's `ServerArgs`.
        layout: The KV of one token on this rank.
        config: radixkv's settings.
        group: The engine's ranks; the first one's reading of the weights counts.
        began_s: Before SGLang read the model. One that was changed since may be another one.
    """
    overrides = {name: str(decided(args, name)) for name in _MODEL_ARGUMENTS}
    if decided(args, "load_format") != "dummy":  # only made-up weights depend on the seed
        del overrides["random_seed"]
    as_it_is = all(decided(args, name) in known for name, known in _AS_IT_IS.items())
    shared = as_it_is and layout.num_kv == 2  # engines may order a joint latent differently
    dtype = layout.dtype if shared else None
    model = group.gather(_identity(args, dtype, overrides, began_s))[0]
    return Namespace(
        model=model,
        layout_digest=layout.digest(config.chunk_tokens),
        salt=config.namespace_salt,
    )


def new_weights(
    namespace: Namespace, model_path: str | None, nonce: str, tensors: frozenset[str]
) -> Namespace:
    """The namespace after a weight update.

    Args:
        namespace: The one before.
        model_path: Folder of the new weights; None if they came over the network or from tensors,
            or nobody knows how much of them was taken in.
        nonce: Differs in each run and at each update, and is the same on every rank.
        tensors: Names of all that the model has. A folder with fewer leaves the others as they
            were, whatever they were.
    """
    if not model_path or not os.path.isdir(model_path):
        return dataclasses.replace(namespace, weight_version=nonce)
    is_whole = bool(tensors) and tensors <= tensor_names(model_path)
    below = {} if is_whole else {"on top of": namespace.weight_version}
    version = f"{namespace.model}:{model_identity(model_path, below)}"
    return dataclasses.replace(namespace, weight_version=version)


def tensors_at_start(args: Any, began_s: float) -> frozenset[str]:
    """Names of the tensors that the model was loaded from; empty where they cannot be told."""
    path = decided(args, "model_path")
    if not _is_as_read(path, began_s, with_folder=False):
        return frozenset()
    return tensor_names(find_model(path, decided(args, "revision")))


def tensor_names(model_path: str) -> frozenset[str]:
    """What the safetensors of a folder hold; empty where they cannot be read."""
    names: set[str] = set()
    try:
        for file in Path(model_path).glob("*.safetensors"):
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                names.update(json.loads(stream.read(min(length, file.stat().st_size))))
    except (OSError, ValueError):
        return frozenset()
    return frozenset(names - {"__metadata__"})


def adapter_identities(adapters: Iterable[Any], group: RankGroup, began_s: float) -> dict[str, str]:
    """What LoRA adapters are made of, by SGLang's ids of them, the same on every rank.

    SGLang names an adapter that is there at start by its name and path alone: another one may lie
    there at the next start, or on the next machine. (Those that are loaded later have ids that
    nobody had before.)

    Args:
        adapters: SGLang's `LoRARef` of each that was loaded.
        group: The engine's ranks; the first one's reading counts.
        began_s: As for `engine_namespace`.
    """
    found = {ref.lora_id: _adapter_identity(ref.lora_path, began_s) for ref in adapters}
    return group.gather(found)[0]


def draw_nonce(group: RankGroup) -> str:
    """A text that no other run has, the same on every rank."""
    return group.gather(uuid.uuid4().hex)[0]


def _identity(
    args: Any, shared_dtype: str | None, overrides: dict[str, str], began_s: float
) -> str:
    """Reads the weights where they lie: at the path given, or where the hub's were put. Drawn where
    SGLang may have read others there.

    With `shared_dtype` the identity is every engine's where the model allows it.
    """
    path = decided(args, "model_path")
    folder = find_model(path, decided(args, "revision"))
    config = decided(args, "decrypted_config_file")
    if config:  # it counts in place of config.json
        overrides = overrides | {"config": (Path(folder) / config).read_text()}
    shared = shared_dtype and common_identity(folder, shared_dtype, decided(args, "tp_size"))
    identity = shared or model_identity(folder, overrides)
    if _is_as_read(path, began_s, with_folder=False):
        return identity
    logger.warning("the KV of %s will not outlast this run: %s", path, _CHANGED)
    return uuid.uuid4().hex


def _adapter_identity(path: str, began_s: float) -> str:
    """Reads an adapter where it lies; drawn, so that nothing is found again, if that fails, or
    SGLang may have read another one there.
    """
    try:
        files = sorted(Path(find_model(path)).iterdir())
        settings = {file.name: file.read_text() for file in files if file.suffix == ".json"}
        weights = [file for file in files if file.suffix in _ADAPTER_SUFFIXES]
        identity = ":".join(model_identity(file, settings) for file in weights)
        if not _is_as_read(path, began_s):
            raise ValueError(_CHANGED)
        return identity or uuid.uuid4().hex
    except (OSError, ValueError) as error:
        logger.warning("the KV of LoRA adapter %s will not outlast this run: %s", path, error)
        return uuid.uuid4().hex


def _is_as_read(path: str, began_s: float, *, with_folder: bool = True) -> bool:
    """Whether there cannot be others at a path than SGLang read.

    SGLang reads them some time before, long before where a storage backend is attached. What a hub
    has under a name stays as it is, and may be fetched while SGLang starts.
    """
    return not os.path.exists(path) or last_change_s(path, with_folder=with_folder) < began_s
