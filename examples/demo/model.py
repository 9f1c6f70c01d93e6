"""The model that the demo serves: SmolLM2, or a tiny random Llama that needs no download."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from . import random_llama, smollm2

SYSTEM_PROMPT = (
    "You answer questions about the Python manual. The user quotes a page of it. "
    "Answer in one short sentence, from that page alone."
)


@dataclass(frozen=True, slots=True)
class Model:
    """A folder that an engine can serve, and what turns text into its tokens and back."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    config: dict[str, Any]

    @property
    def context_length(self) -> int:
        return int(self.config["max_position_embeddings"])

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers, in float32."""
        heads, head_dim = self.config["num_key_value_heads"], self.config["head_dim"]
        return int(self.config["num_hidden_layers"] * 2 * heads * head_dim * 4)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


def is_prepared(name: str, cache: Path) -> bool:
    stamp = cache / name / "complete"
    return stamp.is_file() and stamp.read_text() == _recipe(name)


def prepare_model(name: str, cache: Path) -> Model:
    """Takes the model from `cache`, or writes it there first."""
    writers = {"smollm2": smollm2.write_smollm2, "random": random_llama.write_random_llama}
    folder = cache / name
    if not is_prepared(name, cache):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        writers[name](folder)
        (folder / "complete").write_text(_recipe(name))
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Model(name, folder, tokenizer, config)


def _recipe(name: str) -> str:
    """Changes when the code changes that writes the model, so that no old one is taken for it."""
    module = {"smollm2": smollm2, "random": random_llama}[name]
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
