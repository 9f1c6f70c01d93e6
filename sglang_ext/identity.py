"""Which namespace an engine's KV belongs to: the model, its arguments, the weights of today."""

from __future__ import annotations

import dataclasses
import os
import uuid
from typing import Any

from radixkv import (
    CacheConfig,
    KVLayout,
    Namespace,
    RankGroup,
    common_identity,
    find_model,
    model_identity,
)

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

# Where these are all that is set, SGLang takes the model as it is.
_AS_IT_IS: dict[str, tuple[object, ...]] = {
    "kv_cache_dtype": ("auto",),
    "quantization": (None,),
    "quantization_param_path": (None,),
    "json_model_override_args": (None, "", "{}"),
    "load_format": ("auto", "safetensors"),
    "torchao_config": (None, ""),
    "model_impl": (None, "auto"),
}


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
    as_it_is = all(getattr(args, name, None) in known for name, known in _AS_IT_IS.items())
    shared = as_it_is and layout.num_kv == 2  # engines may order a joint latent differently
    model = group.gather(_identity(args, layout.dtype if shared else None, overrides))[0]
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


def _identity(args: Any, shared_dtype: str | None, overrides: dict[str, str]) -> str:
    """Reads the weights where they lie: at the path given, or where the hub's were put.

    With `shared_dtype` the identity is every engine's where the model allows it.
    """
    folder = find_model(args.model_path, getattr(args, "revision", None))
    shared = shared_dtype and common_identity(folder, shared_dtype, args.tp_size)
    return shared or model_identity(folder, overrides)
