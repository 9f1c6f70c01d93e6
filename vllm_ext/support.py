"""What of vLLM's models and settings radixkv covers.

What is not covered is served by vLLM as if there were no connector, and said at start: a prompt is
computed rather than answered wrongly. The list says what is covered; all else is not.
"""

from __future__ import annotations

from typing import Any

import vllm
from packaging.version import InvalidVersion, Version
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec

# The releases of vLLM whose connector API was read, first and last. In another one it may mean
# something else, and then KV would be wrong rather than absent.
RELEASES = ("0.26", "0.33")

MAX_CHUNK_TOKENS = 512
_SEVERAL = (FullAttentionSpec, SlidingWindowSpec)
_ALONE = (*_SEVERAL, MLAAttentionSpec)
_ONE = {
    "pipeline_parallel_size": "pipeline parallelism",
    "data_parallel_size": "data parallelism",
    "decode_context_parallel_size": "context parallelism",
    "prefill_context_parallel_size": "context parallelism",
}
_TAKES_MEMORY = {
    "enable_sleep_mode": "sleep mode",
    "enable_cumem_allocator": "the allocator that sleep mode uses",
}


def why_not_covered(
    vllm_config: Any, kv_cache_config: Any, release: str = vllm.__version__
) -> str | None:
    """Why this engine's KV is neither stored nor loaded; None where it is."""
    return (
        _release_reason(release)
        or _groups_reason(kv_cache_config.kv_cache_groups)
        or _parallel_reason(vllm_config.parallel_config)
        or _cache_reason(vllm_config)
    )


def _release_reason(release: str) -> str | None:
    first, last = RELEASES
    try:
        numbers = Version(release).release[:2]
    except InvalidVersion:
        numbers = ()
    if Version(first).release <= numbers <= Version(last).release:
        return None
    return f"vLLM {release} is not covered, only {first} to {last}"


def _groups_reason(groups: Any) -> str | None:
    specs = [group.kv_cache_spec for group in groups]
    kinds = _SEVERAL if len(groups) > 1 else _ALONE
    for spec in specs:
        if type(spec) not in kinds:
            beside = " beside others" if len(groups) > 1 else ""
            return f"layers of kind {type(spec).__name__}{beside} are not covered"
    if len({_block_of(spec) for spec in specs}) > 1:
        return "the layers' blocks differ"
    if not all(getattr(group, "enable_kv_transfer", True) for group in groups):
        return "some layers' KV is only a copy of others'"
    has_windows = any(isinstance(spec, SlidingWindowSpec) for spec in specs)
    if (len(groups) > 1 or has_windows) and not hasattr(KVConnectorBase_V1, "get_transfer_results"):
        return "this vLLM cannot be told of a failed load of layers with windows"
    if specs[0].block_size > MAX_CHUNK_TOKENS:
        return f"a block has {specs[0].block_size} tokens, at most {MAX_CHUNK_TOKENS} are covered"
    if specs[0].page_size_bytes % specs[0].block_size:
        return "a block's bytes are no whole number for each token"
    return None


def _block_of(spec: Any) -> tuple[Any, ...]:
    """What must be equal for groups to be stored in one form."""
    value_size = getattr(spec, "head_size_v", None)
    sizes = (spec.block_size, spec.num_kv_heads, spec.head_size, value_size, spec.page_size_bytes)
    return (*sizes, spec.dtype)


def _parallel_reason(parallel_config: Any) -> str | None:
    for field, name in _ONE.items():
        if (getattr(parallel_config, field, 1) or 1) > 1:
            return f"{name} is not covered"
    return None


def _cache_reason(vllm_config: Any) -> str | None:
    if getattr(vllm_config, "speculative_config", None) is not None:
        return "speculative decoding is not covered"
    for setting, name in _TAKES_MEMORY.items():
        if getattr(vllm_config.model_config, setting, False):
            return f"{name} is not covered: memory may go away while copies are under way"
    if not vllm_config.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        return "the scales of the KV cache are measured anew at each start"
    return None
