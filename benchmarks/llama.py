"""Models that the benchmarks of engines run: shapes of Llamas, and weights that never change."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Shape:
    """Of a Llama. The default is Llama-3.1-8B's."""

    hidden: int = 4096
    inner: int = 14336
    num_layers: int = 32
    head_dim: int = 128
    num_heads: int = 32
    num_kv_heads: int = 8
    vocabulary: int = 128256

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def config(self) -> dict[str, object]:
        """As config.json has it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "torch_dtype": "bfloat16",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


LLAMA_8B = Shape()
LLAMA_1B = Shape(hidden=2048, inner=8192, num_layers=16, head_dim=64)


def write_config(folder: Path, shape: Shape) -> None:
    """Enough for an engine that makes up the weights: right for times, not for answers."""
    (folder / "config.json").write_text(json.dumps(shape.config()))


def write_weights(folder: Path, shape: Shape) -> None:
    """Matrices from a normal distribution of a fixed seed, vectors of ones. A folder that has
    weights keeps them.
    """
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    if file.exists():
        return
    generator = torch.Generator("cuda").manual_seed(1)

    def matrix(*sizes: int) -> torch.Tensor:
        values = torch.randn(sizes, generator=generator, device="cuda") * 0.02
        return values.to(torch.bfloat16).cpu()

    def ones() -> torch.Tensor:
        return torch.ones(shape.hidden, dtype=torch.bfloat16)

    hidden, heads, kv_heads = shape.hidden, shape.query_size, shape.kv_size
    matrices = {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv_heads, hidden),
        "self_attn.v_proj": (kv_heads, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (shape.inner, hidden),
        "mlp.up_proj": (shape.inner, hidden),
        "mlp.down_proj": (hidden, shape.inner),
    }
    weights = {
        "model.embed_tokens.weight": matrix(shape.vocabulary, hidden),
        "lm_head.weight": matrix(shape.vocabulary, hidden),
        "model.norm.weight": ones(),
    }
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        weights |= {f"{prefix}{name}.weight": matrix(*sizes) for name, sizes in matrices.items()}
        weights |= {
            f"{prefix}{name}.weight": ones()
            for name in ("input_layernorm", "post_attention_layernorm")
        }
    save_file(weights, file, {"format": "pt"})
    torch.cuda.empty_cache()
