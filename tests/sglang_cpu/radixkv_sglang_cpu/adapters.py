"""What SGLang's LoRA adapters take from CUDA: pinned memory (`--lora-backend torch_native`)."""

from __future__ import annotations

import importlib
from typing import Any

import torch

_MODULES = ("sglang.srt.lora.layers", "sglang.srt.lora.backend.torch_backend")


class _Pageable:
    """torch, but memory that is asked for as pinned is plain."""

    def __getattr__(self, name: str) -> Any:
        made = getattr(torch, name)
        if name not in ("tensor", "zeros", "empty"):
            return made
        return lambda *args, pin_memory=False, **kwargs: made(*args, **kwargs)


def before_adapters(*_: Any, **__: Any) -> None:
    """Before LoRAManager.__init__: only servers with adapters are changed."""
    torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign]
    for name in _MODULES:
        vars(importlib.import_module(name))["torch"] = _Pageable()


def install() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    manager = "sglang.srt.lora.lora_manager.LoRAManager.__init__"
    HookRegistry.register(manager, before_adapters, HookType.BEFORE)
