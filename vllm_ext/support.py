"""What of vLLM's models and settings radixkv covers.

What is not covered is served by vLLM as if there were no connector, and said at start: a prompt is
computed rather than answered wrongly. The list says what is covered; all else is not.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec

MAX_CHUNK_TOKENS = 512
_ONE = {
    "pipeline_parallel_size": "pipeline parallelism",
    "data_parallel_size": "data parallelism",
    "decode_context_parallel_size": "context parallelism",
    "prefill_context_parallel_size": "context parallelism",
}


def why_not_covered(vllm_config: Any, kv_cache_config: Any) -> str | None:
    """Why this engine's KV is neither stored nor loaded; None where it is."""
    return (
        _groups_reason(kv_cache_config.kv_cache_groups)
        or _parallel_reason(vllm_config.parallel_config)
        or _cache_reason(vllm_config)
    )


def _groups_reason(groups: Any) -> str | None:
    if len(groups) != 1:
        return (
            f"the model has {len(groups)} groups of KV (sliding windows, Mamba or other layers "
            "beside full attention)"
        )
    spec = groups[0].kv_cache_spec
    if type(spec) not in (FullAttentionSpec, MLAAttentionSpec):
        return f"layers of kind {type(spec).__name__} are not covered"
    if spec.block_size > MAX_CHUNK_TOKENS:
        return f"a block has {spec.block_size} tokens, at most {MAX_CHUNK_TOKENS} are covered"
    if spec.page_size_bytes % spec.block_size:
        return "a block's bytes are no whole number for each token"
    return None


def _parallel_reason(parallel_config: Any) -> str | None:
    for field, name in _ONE.items():
        if (getattr(parallel_config, field, 1) or 1) > 1:
            return f"{name} is not covered"
    return None


def _cache_reason(vllm_config: Any) -> str | None:
    if getattr(vllm_config, "speculative_config", None) is not None:
        return "speculative decoding is not covered"
    if getattr(vllm_config.model_config, "enable_sleep_mode", False):
        return "sleep mode is not covered: memory goes away while copies may be under way"
    if not vllm_config.cache_config.enable_prefix_caching:
        return "prefix caching is off"
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        return "the scales of the KV cache are measured anew at each start"
    return None
