"""Which namespace an engine's KV belongs to: the model, its arguments, the weights of today."""

from __future__ import annotations

import dataclasses
import os
import uuid
from typing import Any

from radixkv import CacheConfig, KVLayout, Namespace, RankGroup, find_model, model_identity

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
)


def engine_namespace(
    args: Any, layout: KVLayout, config: CacheConfig, group: RankGroup
) -> Namespace:
    """The namespace of an engine that starts now, the same on every rank.

    Args:
        args: SGLang's resolved `ServerArgs`.
        layout: The KV of one token on this rank.
        config: radixkv's settings.
        group: The engine's ranks; the first one's reading of the weights counts.
    """
    overrides = {name: str(getattr(args, name, None)) for name in _MODEL_ARGUMENTS}
    if args.load_format != "dummy":  # only made-up weights depend on the seed
        del overrides["random_seed"]
    model = group.gather(_identity(args.model_path, overrides))[0]
    return Namespace(
        model=model,
        layout_digest=layout.digest(config.chunk_tokens),
        salt=config.namespace_salt,
    )


def new_weights(namespace: Namespace, model_path: str | None, nonce: str) -> Namespace:
    """The namespace after a weight update.

    Args:
        namespace: The one before.
        model_path: Folder of the new weights; None if they came over the network or from tensors.
        nonce: Differs in each run and at each update, and is the same on every rank.
    """
    if model_path and os.path.isdir(model_path):
        return dataclasses.replace(
            namespace, weight_version=f"{namespace.model}:{model_identity(model_path)}"
        )
    return dataclasses.replace(namespace, weight_version=nonce)


def draw_nonce(group: RankGroup) -> str:
    """A text that no other run has, the same on every rank."""
    return group.gather(uuid.uuid4().hex)[0]


def _identity(model_path: str, overrides: dict[str, str]) -> str:
    """Reads the weights where they lie: at the path given, or where the hub's were put."""
    revision = overrides["revision"]
    folder = find_model(model_path, None if revision == "None" else revision)
    return model_identity(folder, overrides)
