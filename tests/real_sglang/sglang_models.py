"""Writes tiny random models that SGLang can serve: a Llama (GQA) and a DeepSeek-V2 (MLA).

The weights are saved, so that every engine and every restart computes the same KV, and they are
scaled so that attention is sharp: a wrong or missing token of the context changes the next token
(`test_stock_cache.py` holds this). Token ids go in and out; there is no tokenizer.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE = 1024
HIDDEN_SIZE = 256
CONTEXT_LENGTH = 4096

# Standard deviation of queries and keys: scores of q·k/sqrt(d) then spread by its square, and a few
# positions of the context, not the average of all, decide what a head reads.
SHARPNESS = 2.0

Weights = dict[str, np.ndarray]


class WeightMaker:
    """Draws weights from one seeded stream; the same calls give the same model."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def linear(self, out_size: int, in_size: int, gain: float = 1.0) -> np.ndarray:
        """Maps unit-variance inputs to outputs of standard deviation `gain`."""
        weights = self.rng.standard_normal((out_size, in_size), dtype=np.float32)
        return weights * np.float32(gain / np.sqrt(in_size))

    def embedding(self) -> np.ndarray:
        return self.rng.standard_normal((VOCAB_SIZE, HIDDEN_SIZE), dtype=np.float32)


def ones(size: int) -> np.ndarray:
    return np.ones(size, dtype=np.float32)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """The format is a length, a JSON table of contents and the raw bytes: no library needed."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ValueError(f"{name}: expected float32, got {tensor.dtype}")
        end = offset + tensor.nbytes
        table[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def feed_forward(make: WeightMaker, layer: str, intermediate_size: int) -> Weights:
    return {
        f"{layer}.input_layernorm.weight": ones(HIDDEN_SIZE),
        f"{layer}.post_attention_layernorm.weight": ones(HIDDEN_SIZE),
        f"{layer}.mlp.gate_proj.weight": make.linear(intermediate_size, HIDDEN_SIZE),
        f"{layer}.mlp.up_proj.weight": make.linear(intermediate_size, HIDDEN_SIZE),
        f"{layer}.mlp.down_proj.weight": make.linear(HIDDEN_SIZE, intermediate_size),
    }


def ends(make: WeightMaker) -> Weights:
    return {
        "model.embed_tokens.weight": make.embedding(),
        "model.norm.weight": ones(HIDDEN_SIZE),
        "lm_head.weight": make.linear(VOCAB_SIZE, HIDDEN_SIZE, gain=4.0),
    }


def llama_weights(config: Mapping[str, Any], seed: int) -> Weights:
    make = WeightMaker(seed)
    head_dim = config["head_dim"]
    q_size = config["num_attention_heads"] * head_dim
    kv_size = config["num_key_value_heads"] * head_dim
    weights = ends(make)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention = f"{layer}.self_attn"
        weights |= feed_forward(make, layer, config["intermediate_size"])
        weights |= {
            f"{attention}.q_proj.weight": make.linear(q_size, HIDDEN_SIZE, SHARPNESS),
            f"{attention}.k_proj.weight": make.linear(kv_size, HIDDEN_SIZE, SHARPNESS),
            f"{attention}.v_proj.weight": make.linear(kv_size, HIDDEN_SIZE),
            f"{attention}.o_proj.weight": make.linear(HIDDEN_SIZE, q_size, gain=2.0),
        }
    return weights


def deepseek_weights(config: Mapping[str, Any], seed: int) -> Weights:
    make = WeightMaker(seed)
    num_heads = config["num_attention_heads"]
    latent_size, rope_size = config["kv_lora_rank"], config["qk_rope_head_dim"]
    nope_size, value_size = config["qk_nope_head_dim"], config["v_head_dim"]
    weights = ends(make)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention = f"{layer}.self_attn"
        q_size = num_heads * (nope_size + rope_size)
        kv_size = num_heads * (nope_size + value_size)
        weights |= feed_forward(make, layer, config["intermediate_size"])
        weights |= {
            f"{attention}.q_proj.weight": make.linear(q_size, HIDDEN_SIZE, SHARPNESS),
            f"{attention}.kv_a_proj_with_mqa.weight": make.linear(
                latent_size + rope_size, HIDDEN_SIZE, SHARPNESS
            ),
            f"{attention}.kv_a_layernorm.weight": ones(latent_size),
            f"{attention}.kv_b_proj.weight": make.linear(kv_size, latent_size, SHARPNESS),
            f"{attention}.o_proj.weight": make.linear(
                HIDDEN_SIZE, num_heads * value_size, gain=1.0
            ),
        }
    return weights


COMMON_CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "hidden_act": "silu",
    "intermediate_size": 512,
    "max_position_embeddings": CONTEXT_LENGTH,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LLAMA_CONFIG: dict[str, Any] = COMMON_CONFIG | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}

DEEPSEEK_CONFIG: dict[str, Any] = COMMON_CONFIG | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    # Every layer is dense; SGLang reads the numbers of experts all the same.
    "first_k_dense_replace": 3,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    # SGLang's rotary embedding of DeepSeek on a CPU exists only with YaRN.
    "rope_scaling": {
        "type": "yarn",
        "factor": 2.0,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": CONTEXT_LENGTH // 2,
    },
}


# Bytes of KV of one token, in float32, by the kind of attention.
KV_BYTES_PER_TOKEN = {
    "mha": LLAMA_CONFIG["num_hidden_layers"] * 2 * LLAMA_CONFIG["num_key_value_heads"] * 32 * 4,
    "mla": DEEPSEEK_CONFIG["num_hidden_layers"] * (64 + 16) * 4,
}


def write_model(folder: Path, config: Mapping[str, Any], weights: Weights) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def write_llama(folder: Path, seed: int = 1) -> Path:
    """Grouped-query attention: 4 layers, 8 heads, 2 KV heads of 32 (2 KiB of KV a token)."""
    return write_model(folder, LLAMA_CONFIG, llama_weights(LLAMA_CONFIG, seed))


def write_deepseek(folder: Path, seed: int = 1) -> Path:
    """Multi-head latent attention: 3 layers, a latent of 64 + 16 (960 bytes of KV a token)."""
    return write_model(folder, DEEPSEEK_CONFIG, deepseek_weights(DEEPSEEK_CONFIG, seed))


def write_adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter of the Llama, strong enough to change most answers."""
    rank = 8
    rng = np.random.default_rng(seed)
    heads = {
        "q_proj": "num_attention_heads",
        "k_proj": "num_key_value_heads",
        "v_proj": "num_key_value_heads",
    }
    weights: Weights = {}
    for i in range(LLAMA_CONFIG["num_hidden_layers"]):
        for name, count in heads.items():
            place = f"base_model.model.model.layers.{i}.self_attn.{name}"
            size = LLAMA_CONFIG[count] * LLAMA_CONFIG["head_dim"]
            down = rng.standard_normal((rank, HIDDEN_SIZE), np.float32) / np.float32(16)
            weights[f"{place}.lora_A.weight"] = down
            weights[f"{place}.lora_B.weight"] = rng.standard_normal((size, rank), np.float32)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(heads),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "adapter_model.safetensors", weights)
    return folder
