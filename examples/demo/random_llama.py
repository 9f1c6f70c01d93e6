"""A tiny random Llama over single bytes: needs no download, and answers nothing worth reading."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def write_random_llama(folder: Path) -> None:
    """Four layers of noise over single bytes: answers nothing, but all the caching is real."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = specials + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))

    hidden, heads, kv_heads, head_dim, inner = 256, 8, 2, 32, 512
    torch.manual_seed(1)

    def linear(num_out: int, num_in: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(num_out, num_in) * gain / num_in**0.5

    tensors = {
        "model.embed_tokens.weight": torch.randn(len(vocabulary), hidden),
        "model.norm.weight": torch.ones(hidden),
        "lm_head.weight": linear(len(vocabulary), hidden, gain=4.0),
    }
    for i in range(4):
        layer = f"model.layers.{i}"
        tensors |= {
            f"{layer}.input_layernorm.weight": torch.ones(hidden),
            f"{layer}.post_attention_layernorm.weight": torch.ones(hidden),
            f"{layer}.self_attn.q_proj.weight": linear(heads * head_dim, hidden, gain=2.0),
            f"{layer}.self_attn.k_proj.weight": linear(kv_heads * head_dim, hidden, gain=2.0),
            f"{layer}.self_attn.v_proj.weight": linear(kv_heads * head_dim, hidden),
            f"{layer}.self_attn.o_proj.weight": linear(hidden, heads * head_dim, gain=2.0),
            f"{layer}.mlp.gate_proj.weight": linear(inner, hidden),
            f"{layer}.mlp.up_proj.weight": linear(inner, hidden),
            f"{layer}.mlp.down_proj.weight": linear(hidden, inner),
        }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 12288,  # a page of the manual has up to 8,400 bytes
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
