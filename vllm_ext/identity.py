"""Which namespace KV belongs to: the model, what the engine makes of it, the request."""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vllm
from vllm.platforms import current_platform

from radixkv import KVLayout, Namespace, Planner, common_identity, find_model, model_identity
from vllm_ext.adapters import Adapters, nonce
from vllm_ext.requests import request_key
from vllm_ext.settings import EngineSettings

logger = logging.getLogger(__name__)

_MOST_TREES = 4096  # that are remembered by name

# Settings that change the KV of given tokens, or how a block holds it.
_MODEL = ("dtype", "quantization", "hf_overrides", "revision", "code_revision")
_CACHE = ("cache_dtype", "block_size")
_PARALLEL = ("tensor_parallel_size", "enable_expert_parallel")

# Where these are all that is set, vLLM takes the model as it is.
_AS_IT_IS: dict[str, tuple[object, ...]] = {
    "quantization": (None,),
    "config_format": (None, "auto", "hf"),
    "model_impl": (None, "auto", "vllm"),
    "hf_overrides": (None, {}),
    "hf_config_path": (None,),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose requests share a tree, in the words of vLLM's requests, and which layers it is of."""

    group: int
    lora_name: str | None = None
    cache_salt: str | None = None

    def extra_keys(self, *, is_first: bool) -> tuple[str, ...] | None:
        """What vLLM hashes beside the tokens of a block; the salt only in a prompt's first one."""
        keys = (self.lora_name, self.cache_salt if is_first else None)
        return tuple(key for key in keys if key is not None) or None


class Namespaces:
    """The trees of one engine, by what requests bring along.

    There may be as many salts as users: those of late are remembered, the others' trees found again
    by their names.

    Args:
        planner: Has the trees.
        bases: The namespaces of a plain request, one for each group of layers.
    """

    def __init__(self, planner: Planner, bases: Sequence[Namespace]) -> None:
        self._planner = planner
        self._bases = list(bases)
        self._adapters = Adapters()
        self._trees: dict[tuple[str, str], tuple[int, ...]] = {}  # those of late are last
        self._origins: dict[int, Origin] = {}
        self._remember(("", ""), self._make_trees("", "", None, None))

    def trees_of(self, request: Any) -> tuple[int, ...] | None:
        """A request's tree for each group of layers; None where they cannot be told."""
        lora_request = getattr(request, "lora_request", None)
        lora = "" if lora_request is None else self._adapters.name_of(lora_request)
        if lora is None:
            return None
        name = (lora, request_key(request))
        trees = self._trees.pop(name, None)
        if trees is None:
            lora_name = None if lora_request is None else lora_request.lora_name
            trees = self._make_trees(*name, lora_name, getattr(request, "cache_salt", None))
        self._remember(name, trees)
        return trees

    def replace_adapter(self, lora: Any) -> None:
        """vLLM reads other weights under an adapter's number: it has no trees from now on."""
        self._adapters.name_of(lora)

    def origin_of(self, tree: int) -> Origin | None:
        """Whose a tree is; None where no request of this engine has asked for it of late."""
        return self._origins.get(tree)

    def begin_anew(self) -> None:
        """The weights may have changed, to what nobody can name: what is kept from now on is found
        until the engine ends, and nothing of before.
        """
        weights = nonce()
        self._bases = [dataclasses.replace(base, weight_version=weights) for base in self._bases]
        self._trees.clear()
        self._origins.clear()
        self._remember(("", ""), self._make_trees("", "", None, None))

    def _remember(self, name: tuple[str, str], trees: tuple[int, ...]) -> None:
        self._trees[name] = trees
        if len(self._trees) > _MOST_TREES:
            for tree in self._trees.pop(next(iter(self._trees))):
                del self._origins[tree]

    def _make_trees(
        self, lora: str, key: str, lora_name: str | None, salt: str | None
    ) -> tuple[int, ...]:
        trees = []
        for group, base in enumerate(self._bases):
            space = dataclasses.replace(base, lora=lora, request_key=key)
            trees.append(self._planner.index.namespace(space.digest()))
            self._origins[trees[-1]] = Origin(group, lora_name, salt)
        return tuple(trees)


def engine_namespaces(
    vllm_config: Any, kv_cache_config: Any, settings: EngineSettings
) -> list[Namespace]:
    """The namespaces of an engine that starts now, one for each group of layers."""
    layout, config = settings.layout, settings.config
    identity = _identity(vllm_config, kv_cache_config, layout)
    return [
        Namespace(
            model=identity if len(settings.groups) == 1 else f"{identity} {group.layer_names}",
            layout_digest=layout.digest(config.chunk_tokens),
            salt=config.namespace_salt,
        )
        for group in settings.groups
    ]


def _identity(vllm_config: Any, kv_cache_config: Any, layout: KVLayout) -> str:
    """Names the model's weights and what this engine makes of them."""
    model = vllm_config.model_config
    try:
        overrides = _overrides(vllm_config, kv_cache_config)
        folder = find_model(model.model, getattr(model, "revision", None))
        shared = _is_as_it_is(vllm_config, layout) and common_identity(
            folder, layout.dtype, vllm_config.parallel_config.tensor_parallel_size
        )
        return shared or model_identity(folder, overrides)
    except (OSError, ValueError, ImportError) as error:
        logger.warning(
            "the weights of %s cannot be told from others (%s): what is kept is found again only "
            "until this engine ends",
            model.model,
            error,
        )
        return nonce()


def _is_as_it_is(vllm_config: Any, layout: KVLayout) -> bool:
    """Whether a token's rows are its own, and the KV what any engine makes of the model."""
    model = vllm_config.model_config
    return (
        layout.block_tokens == 1
        and layout.num_kv == 2  # engines may order a joint latent differently
        and str(vllm_config.load_config.load_format) in ("auto", "safetensors")
        and str(vllm_config.cache_config.cache_dtype) == "auto"
        and all(getattr(model, name, None) in known for name, known in _AS_IT_IS.items())
    )


def _overrides(vllm_config: Any, kv_cache_config: Any) -> dict[str, object]:
    model, cache = vllm_config.model_config, vllm_config.cache_config
    load_format = str(vllm_config.load_config.load_format)
    found = {name: str(getattr(model, name, None)) for name in _MODEL}
    found |= {name: str(getattr(cache, name, None)) for name in _CACHE}
    found |= {name: str(getattr(vllm_config.parallel_config, name, None)) for name in _PARALLEL}
    elsewhere = getattr(model, "hf_config_path", None)
    if elsewhere is not None:  # what lies there counts, not what lies beside the weights
        found["config"] = (Path(find_model(elsewhere)) / "config.json").read_text()
    if "dummy" in load_format:  # only made-up weights depend on the seed
        found["seed"] = str(model.seed)
    if "longrope" in str(model.hf_config):  # it turns by the greatest length, not by the prompt's
        found["max_model_len"] = str(model.max_model_len)
    attention = getattr(vllm_config, "attention_config", None)
    found |= {
        "load_format": load_format,
        "inside of a block": vllm.__version__,
        "block layout": str(getattr(kv_cache_config, "kv_cache_layout", None)),
        "attention": str(getattr(attention, "backend", None)),
        "processor": _processor(),
    }
    return dict(found)


def _processor() -> str:
    """What kernels choose the inside of a block by."""
    if current_platform.device_type != "cpu":
        return str(current_platform.get_device_name())
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return " ".join(sorted(line.partition(":")[2].split()))
    return platform.machine()
