"""The shape of a model's KV, read from its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radixkv.errors import UnsupportedError
from radixkv.layout import KVLayout

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}


def read_config(model: str) -> dict[str, Any]:
    """The config.json of a folder, of a file's own path, or of a name in the local model cache.

    Raises:
        FileNotFoundError: There is none.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        path = _in_model_cache(model) or path
    config: dict[str, Any] = json.loads(path.read_text())
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
        UnsupportedError: Not every layer keeps KV for every token, or the element type is unknown.
        KeyError: The config lacks a number.
    """
    text = {**config, **(config.get("text_config") or {})}
    _refuse_hybrids(text)
    dtype = dtype or str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
    if dtype not in ELEMENT_BYTES:
        raise UnsupportedError(f"KV of type {dtype}: known are {', '.join(ELEMENT_BYTES)}")
    num_layers = int(_first(text, "num_hidden_layers", "n_layer", "num_layers"))
    if text.get("kv_lora_rank"):
        latent = int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"])
        return KVLayout(num_layers, 1, latent * ELEMENT_BYTES[dtype], dtype)
    num_heads = int(_first(text, "num_attention_heads", "n_head"))
    num_kv_heads = int(text.get("num_key_value_heads") or num_heads)
    head_dim = int(text.get("head_dim") or _first(text, "hidden_size", "n_embd") // num_heads)
    heads_here = max(num_kv_heads // num_ranks, 1)
    return KVLayout(num_layers, 2, heads_here * head_dim * ELEMENT_BYTES[dtype], dtype)


def _refuse_hybrids(text: Mapping[str, Any]) -> None:
    kinds = set(text.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise UnsupportedError(f"layers of type {', '.join(sorted(kinds))} are not served yet")
    if text.get("index_topk"):
        raise UnsupportedError("sparse attention with an indexer is not served yet")


def _first(text: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if text.get(name) is not None:
            return text[name]
    raise KeyError(names[0])


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
