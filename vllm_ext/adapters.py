"""LoRA adapters: what their KV is known by, and when vLLM computes with other weights than before.

vLLM knows an adapter by a number and reads it where it lies: when it is told to, and again when it
is asked for and was dropped for another. It may be told to read others in its place, too
(`load_inplace`), which it says to no connector: `on_replaced` hears of it in the engine's process.
"""

from __future__ import annotations

import functools
import math
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from radixkv import find_model, last_change_s, model_identity


class Listener(Protocol):
    """Wants to know of adapters that are replaced."""

    def replace_adapter(self, lora: Any) -> None:
        """vLLM is about to read others in place of those with `lora.lora_int_id`."""


_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
_heard: set[type] = set()


def on_replaced(listener: Listener) -> None:
    """Tell an object from now on, as long as it lives."""
    from vllm.v1.engine.core import EngineCore

    _listeners.add(listener)
    if EngineCore not in _heard:
        _heard.add(EngineCore)
        EngineCore.add_lora = _announced(EngineCore.add_lora)


def _announced(add_lora: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    @functools.wraps(add_lora)
    def announce(core: Any, lora_request: Any) -> bool:
        if getattr(lora_request, "load_inplace", False):
            for listener in list(_listeners):
                listener.replace_adapter(lora_request)
        return add_lora(core, lora_request)

    return announce


@dataclass(slots=True)
class _Adapter:
    """An adapter as it lay where vLLM reads it when it was first asked for.

    Attributes:
        path: Where.
        name: What its KV is known by.
        weights: What lay there; empty where that could not be told.
        changed_s: When anything was last changed there; infinite where nothing was to be seen.
        is_sure: Whether vLLM cannot have read other weights since.
    """

    path: str
    name: str
    weights: str
    changed_s: float
    is_sure: bool = True


class Adapters:
    """Those of one engine, by their numbers."""

    def __init__(self) -> None:
        self._began_s = time.time()
        self._known: dict[int, _Adapter] = {}

    def name_of(self, lora: Any) -> str | None:
        """Names an adapter by its weights; None where they may be other ones than they were."""
        adapter = self._known.get(lora.lora_int_id)
        if adapter is None:
            adapter = self._known[lora.lora_int_id] = _read(lora.lora_path, self._began_s)
        if getattr(lora, "load_inplace", False) or lora.lora_path != adapter.path:
            adapter.is_sure = False
        _look_again(adapter)
        return adapter.name if adapter.is_sure else None


def _read(path: str, began_s: float) -> _Adapter:
    """vLLM read it some time before, and does not say when: where anything was changed since the
    engine began, it may be another one than what vLLM read.
    """
    changed_s = last_change_s(path)
    weights = _weights(path)
    is_what_vllm_read = weights and changed_s < began_s
    return _Adapter(path, weights if is_what_vllm_read else nonce(), weights, changed_s)


def _look_again(adapter: _Adapter) -> None:
    """See whether there are still the same weights."""
    if not adapter.is_sure:
        return
    changed_s = last_change_s(adapter.path)
    if changed_s in (adapter.changed_s, math.inf):  # what is not there cannot be read
        return
    weights = _weights(adapter.path)
    if math.isfinite(adapter.changed_s):
        adapter.is_sure = bool(weights) and weights == adapter.weights
    adapter.weights, adapter.changed_s = weights, changed_s


def _weights(path: str) -> str:
    """Names what lies there; empty where that cannot be told."""
    try:
        folder = Path(find_model(path))
        files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
        config = (folder / "adapter_config.json").read_text()
        return " ".join(model_identity(file, {"adapter": config}) for file in files)
    except (OSError, ValueError, ImportError):
        return ""


def nonce() -> str:
    """For weights that nobody can name: their KV is found again until the engine ends."""
    return uuid.uuid4().hex
