"""The shape of a model's KV, read from its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from radixkv.errors import UnsupportedError
from radixkv.layout import KVLayout

# Keys that only configs of models with other than attention layers have.
_STATE_KEYS = {
    *("mamba_d_state", "mamba_d_conv", "ssm_cfg", "hybrid_override_pattern"),
    *("linear_num_value_heads", "linear_attn_config", "attn_type_list"),
}

_WINDOW = "sliding_attention"
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


def read_model(
    model: str, dtype: str | None, num_ranks: int = 1
) -> tuple[Mapping[str, Any], KVLayout]:
    """What a shell's user named: its config.json, and the KV of one token on one rank.

    Raises:
        ClickException: There is no such model, or it is not served; says which.
    """
    try:
        config = read_config(model)
        return config, kv_layout(config, dtype, num_ranks)
    except FileNotFoundError as error:
        message = f"{model}: no config.json there, nor a downloaded model of this name"
        raise click.ClickException(message) from error
    except OSError as error:
        raise click.ClickException(f"{model}: {error.strerror}") from error
    except ValueError as error:
        raise click.ClickException(f"{model}: not a model's config.json ({error})") from error
    except UnsupportedError as error:
        raise click.ClickException(f"{model}: {error}") from error


def read_config(model: str) -> dict[str, Any]:
    """The config.json of a folder, of a file's own path, or of a name in the local model cache.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not a JSON object.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _in_model_cache(model) or path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(config, dict):
        raise ValueError(f"expected an object, got {type(config).__name__}")
    return config


def kv_layout(config: Mapping[str, Any], dtype: str | None = None, num_ranks: int = 1) -> KVLayout:
    """The KV of one token on one of `num_ranks` tensor-parallel ranks.

    A joint latent (MLA) is the same on every rank; heads are divided, and repeated where there are
    fewer of them than ranks.

    Args:
        config: Content of a config.json; a multimodal model's text part is taken.
        dtype: Element type of the KV cache; the model's own where it is None.
        num_ranks: Ranks among which the heads are divided.

    Raises:
        UnsupportedError: Not every layer keeps KV for every token, the element type is unknown, or
            the heads do not divide among the ranks.
        ValueError: A number is missing, or is none.
    """
    text = _text_part(config)
    _refuse_hybrids(text)
    dtype = dtype or str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    if dtype not in ELEMENT_BYTES:
        raise UnsupportedError(f"KV of type {dtype}: known are {', '.join(ELEMENT_BYTES)}")
    num_layers = _number(text, "num_hidden_layers", "n_layer", "num_layers")
    if text.get("kv_lora_rank"):
        latent = _number(text, "kv_lora_rank") + _number(text, "qk_rope_head_dim")
        return KVLayout(num_layers, 1, latent * ELEMENT_BYTES[dtype], dtype)
    num_heads = _number(text, "num_attention_heads", "n_head")
    num_kv_heads = _number(text, "num_key_value_heads", "num_attention_heads", "n_head")
    if max(num_kv_heads, num_ranks) % min(num_kv_heads, num_ranks):
        raise UnsupportedError(f"{num_kv_heads} KV heads do not divide among {num_ranks} ranks")
    if text.get("head_dim") is not None:
        head_dim = _number(text, "head_dim")
    else:
        head_dim = _number(text, "hidden_size", "n_embd") // num_heads
    heads_here = max(num_kv_heads // num_ranks, 1)
    return KVLayout(num_layers, 2, heads_here * head_dim * ELEMENT_BYTES[dtype], dtype)


def has_windows(config: Mapping[str, Any]) -> bool:
    """Whether some layers attend to the last tokens only; all the same their KV is kept whole."""
    return _WINDOW in _layer_types(_text_part(config))


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config") or {}
    if not isinstance(text, dict):
        raise ValueError(f"text_config: expected an object, got {text!r}")
    return {**config, **text}


def _layer_types(text: Mapping[str, Any]) -> list[str]:
    kinds = text.get("layer_types") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ValueError(f"layer_types: expected a list of names, got {kinds!r}")
    return kinds


def _refuse_hybrids(text: Mapping[str, Any]) -> None:
    kinds = set(_layer_types(text)) - {"full_attention", _WINDOW}
    if kinds:
        raise UnsupportedError(f"layers of type {', '.join(sorted(kinds))} are not served yet")
    if _STATE_KEYS & text.keys():
        raise UnsupportedError("Mamba and linear-attention layers are not served yet")
    if text.get("index_topk"):
        raise UnsupportedError("sparse attention with an indexer is not served yet")


def _number(text: Mapping[str, Any], *names: str) -> int:
    """The number under the first of these names that is there."""
    for name in names:
        value = text.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: expected a whole number above 0, got {value!r}")
        return value
    raise ValueError(f"{names[0]} is missing")


def _in_model_cache(model: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(model, "config.json")
    except ValueError:  # not a name that a hub could have
        return None
    return Path(found) if isinstance(found, str) else None
