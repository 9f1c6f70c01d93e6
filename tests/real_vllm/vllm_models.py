"""Writes tiny random models: a Gemma 3, whose layers attend to all tokens or to the last few in
turn, a Mistral, whose layers all attend to the last few, and a DeepSeek-V2 as large as vLLM's
kernels want it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sglang_models import (
    COMMON_CONFIG,
    HIDDEN_SIZE,
    LLAMA_CONFIG,
    SHARPNESS,
    WeightMaker,
    Weights,
    deepseek_weights,
    feed_forward,
    llama_weights,
    ones,
    write_model,
    write_safetensors,
)
from sglang_models import DEEPSEEK_CONFIG as SMALL_DEEPSEEK_CONFIG

GEMMA_CONFIG: dict[str, Any] = COMMON_CONFIG | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 64,
    "layer_types": [
        "sliding_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ],
    "rope_local_base_freq": 10000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "tie_word_embeddings": True,
}

MISTRAL_CONFIG: dict[str, Any] = LLAMA_CONFIG | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "sliding_window": 33,
}

# Embeddings this small are outweighed by what the layers add: the output, which is tied to them,
# would otherwise repeat the last token for ever.
EMBEDDING_GAIN = np.float32(0.01)

# vLLM's kernels take no smaller latent.
DEEPSEEK_CONFIG: dict[str, Any] = SMALL_DEEPSEEK_CONFIG | {
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}


def write_deepseek(folder: Path, seed: int = 1) -> Path:
    """Multi-head latent attention: 3 layers, a latent of 512 + 64."""
    return write_model(folder, DEEPSEEK_CONFIG, deepseek_weights(DEEPSEEK_CONFIG, seed))


def write_gemma(folder: Path, seed: int = 1) -> Path:
    """Three layers with a window of 64 tokens and one without, 2 KV heads of 64."""
    return write_model(folder, GEMMA_CONFIG, _gemma_weights(WeightMaker(seed)))


def write_mistral(folder: Path, seed: int = 1) -> Path:
    """The Llama, but every layer has a window of 33 tokens."""
    return write_model(folder, MISTRAL_CONFIG, llama_weights(MISTRAL_CONFIG, seed))


def write_adapter(folder: Path, seed: int = 1) -> Path:
    """Low-rank changes to the attention of `write_llama`'s model, large enough to be heard."""
    make, size, rank = WeightMaker(seed), LLAMA_CONFIG["hidden_size"], 8
    kv_size = LLAMA_CONFIG["num_key_value_heads"] * LLAMA_CONFIG["head_dim"]
    weights = {}
    for i in range(LLAMA_CONFIG["num_hidden_layers"]):
        for name, out_size in (("q", size), ("k", kv_size), ("v", kv_size)):
            place = f"base_model.model.model.layers.{i}.self_attn.{name}_proj"
            weights[f"{place}.lora_A.weight"] = make.linear(rank, size)
            weights[f"{place}.lora_B.weight"] = make.linear(out_size, rank)
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter_model.safetensors", weights)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "k_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _gemma_weights(make: WeightMaker) -> Weights:
    config = GEMMA_CONFIG
    q_size = config["num_attention_heads"] * config["head_dim"]
    kv_size = config["num_key_value_heads"] * config["head_dim"]
    zeros = ones(HIDDEN_SIZE) * 0  # Gemma's norms multiply by one more than their weights
    weights = {
        "model.embed_tokens.weight": make.embedding() * EMBEDDING_GAIN,
        "model.norm.weight": zeros,
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention = f"{layer}.self_attn"
        weights |= feed_forward(make, layer, config["intermediate_size"])
        weights |= {
            f"{layer}.{name}_layernorm.weight": zeros
            for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
        }
        weights |= {
            f"{attention}.q_norm.weight": ones(config["head_dim"]) * (SHARPNESS - 1),
            f"{attention}.k_norm.weight": ones(config["head_dim"]) * (SHARPNESS - 1),
            f"{attention}.q_proj.weight": make.linear(q_size, HIDDEN_SIZE),
            f"{attention}.k_proj.weight": make.linear(kv_size, HIDDEN_SIZE),
            f"{attention}.v_proj.weight": make.linear(kv_size, HIDDEN_SIZE),
            f"{attention}.o_proj.weight": make.linear(HIDDEN_SIZE, q_size, gain=2.0),
        }
    return weights
