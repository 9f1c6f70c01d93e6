"""What both sides of the connector know of the engine before it runs."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from radixkv import CacheConfig, ConfigError, KVLayout
from vllm_ext.layout import LayerGroup, describe_blocks, find_groups
from vllm_ext.support import MAX_CHUNK_TOKENS

_LOADS = ("async", "sync", "auto")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The same on the scheduler and on every worker.

    Attributes:
        layout: The KV of a token on one rank.
        config: radixkv's settings; sizes are those of one rank.
        num_ranks: Ranks that hold a share of each chunk.
        groups: The layers that share blocks, group by group.
        block_tokens: Tokens in one of vLLM's blocks.
        num_blocks: Blocks on the device.
        group_id: For disk files that are made now, 16 bytes.
        loads: "async": a request joins the batch when its loads are done. "sync": it joins at once
            and the batch waits for them, layer by layer. "auto": at once where it is alone. On a
            GPU "auto" is the default, elsewhere "async". With windows always "async".
        reads: Whether prompts are looked up.
        writes: Whether they are stored.
    """

    layout: KVLayout
    config: CacheConfig
    num_ranks: int
    groups: tuple[LayerGroup, ...]
    block_tokens: int
    num_blocks: int
    group_id: bytes
    loads: str
    reads: bool
    writes: bool

    @property
    def fails_whole_requests(self) -> bool:
        """Whether a load that fails costs its request all that it found; otherwise the blocks that
        it was to fill are lost, and what comes before them stays.
        """
        return _fails_whole_requests(self.groups)


def read_settings(vllm_config: Any, kv_cache_config: Any) -> EngineSettings:
    """Reads vLLM's configuration, and radixkv's own out of `kv_connector_extra_config`.

    There, `config` names a YAML file, or its keys stand there themselves; without either the file
    that RADIXKV_CONFIG names counts. `loads` is "async", "sync" or "auto"; see
    `EngineSettings`.

    Raises:
        ConfigError: Names the wrong setting.
    """
    transfer = vllm_config.kv_transfer_config
    extra = dict(transfer.kv_connector_extra_config or {})
    loads = extra.pop("loads", _default_loads(vllm_config))
    if loads not in _LOADS:
        raise ConfigError(f"loads: expected one of {', '.join(_LOADS)}, got {loads!r}")
    layout, groups = describe_blocks(vllm_config, kv_cache_config), find_groups(kv_cache_config)
    num_ranks = vllm_config.parallel_config.tensor_parallel_size
    config = _read_config(extra)
    chunk_tokens = _whole_blocks(config.chunk_tokens, layout.block_tokens)
    return EngineSettings(
        layout=layout,
        config=dataclasses.replace(config, chunk_tokens=chunk_tokens).for_rank(num_ranks),
        num_ranks=num_ranks,
        groups=groups,
        block_tokens=kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size,
        num_blocks=kv_cache_config.num_blocks,
        group_id=hashlib.sha256(str(transfer.engine_id).encode()).digest()[:16],
        loads=_loads(loads, vllm_config, groups),
        reads=transfer.is_kv_consumer,
        writes=transfer.is_kv_producer,
    )


def _whole_blocks(chunk_tokens: int, block_tokens: int) -> int:
    """A chunk of as many tokens or a few more; a few less where that is more than one may have."""
    num_blocks = min(-(-chunk_tokens // block_tokens), MAX_CHUNK_TOKENS // block_tokens)
    return num_blocks * block_tokens


def _fails_whole_requests(groups: tuple[LayerGroup, ...]) -> bool:
    """Of several groups vLLM does not know whose a lost block is. Behind a window it would go on at
    the lost block, and what the window reaches before that was not loaded.
    """
    return len(groups) > 1 or groups[0].window is not None


def _loads(asked: str, vllm_config: Any, groups: tuple[LayerGroup, ...]) -> str:
    if _fails_whole_requests(groups):
        return "async"  # vLLM can take a request back whole only before it runs
    return "async" if asked == "auto" and _may_replay_prefills(vllm_config) else asked


def _default_loads(vllm_config: Any) -> str:
    """Without a GPU a batch that waits gains nothing: copies need the cores that compute."""
    return "auto" if vllm_config.device_config.device_type == "cuda" else "async"


def _may_replay_prefills(vllm_config: Any) -> bool:
    """Whether a few tokens or more may run as a graph that was captured whole, in which no layer
    waits. With speculative decoding as many as are guessed pass for a decode step.
    """
    if vllm_config.speculative_config is not None:
        return True
    mode = getattr(getattr(vllm_config, "compilation_config", None), "cudagraph_mode", None)
    mixed_mode = getattr(mode, "mixed_mode", None)
    return mixed_mode is not None and mixed_mode().name == "FULL"


def _read_config(extra: dict[str, Any]) -> CacheConfig:
    if "config" in extra:
        path = extra.pop("config")
        if not isinstance(path, str):
            raise ConfigError(f"config: expected the path of a YAML file, got {path!r}")
        if extra:
            raise ConfigError(
                f"config: expected it alone, got {', '.join(sorted(extra))} beside it"
            )
        return CacheConfig.load(path)
    return CacheConfig.from_mapping(extra) if extra else CacheConfig.from_environment()
