"""What radixkv serves inside SGLang, and what it refuses at start, by name.

A model whose KV is more than one row of K and V a layer would come back incomplete, and a wrong
answer is worse than a refusal. So the list says what is served; all else is refused.
"""

from __future__ import annotations

from typing import Any

from packaging.version import Version

from radixkv import CacheConfig, UnsupportedError
from sglang_ext.arguments import decided

# The releases of SGLang whose cache API the adapter was written for, first and last.
RELEASES = ("0.5.15", "0.5.23")

_NAME_TOKENS = 8  # of a page's name, a SHA-256 as uint32
_LEAST_SHARE = 4  # servers are asked for a part of a chunk, one in so many, or for more

_REPLACED = {
    "enable_hierarchical_cache": "--enable-hierarchical-cache",
    "enable_lmcache": "--enable-lmcache",
    "enable_flexkv": "--enable-flexkv",
    "disable_radix_cache": "--disable-radix-cache",
}
_NOT_SERVED = {
    "enable_session_radix_cache": "--enable-session-radix-cache",
    "enable_unified_cache_external_linker": "--enable-unified-cache-external-linker",
    "enable_unified_memory": "--enable-unified-memory",
    "enable_hisparse": "--enable-hisparse",
    "enable_kv_cache_sharding": "--enable-kv-cache-sharding",
    "dllm_algorithm": "--dllm-algorithm",
    "enable_pdmux": "--enable-pdmux",  # its scheduler has no step in which a cache is called
    "enable_mis": "--enable-mis",  # items of a prompt do not attend to those before them
    # Lie beside the KV, slot by slot: of what is loaded there are those of who had the slot before.
    "enable_return_routed_experts": "--enable-return-routed-experts",
    "enable_return_indexer_topk": "--enable-return-indexer-topk",
}


def check_release(release: str) -> None:
    """Refuse a release of SGLang that nobody has run radixkv with.

    Its cache API may have changed, and then KV would be wrong rather than absent.

    Raises:
        UnsupportedError: Names the release and those that are served.
    """
    first, last = RELEASES
    numbers = Version(release).release
    if not Version(first).release <= numbers[:3] <= Version(last).release:
        _refuse(
            f"SGLang {release} is not served by --radix-cache-backend radixkv, only {first} to "
            f"{last}; install one of those, or a newer radixkv"
        )


def check_storage(config: Any) -> None:
    """Refuse what radixkv cannot keep right as a storage backend of HiCache.

    Args:
        config: SGLang's `HiCacheStorageConfig`.

    Raises:
        UnsupportedError: Names what is not served.
    """
    if not (config.extra_config or {}).get("interface_v1"):
        _refuse('the storage backend needs "interface_v1": 1 in its extra config')
    if config.is_mla_model and config.tp_size > 1:
        _refuse("the storage backend does not serve joint latents (MLA) under tensor parallelism")
    if getattr(config, "tp_lcm_size", None) or getattr(config, "should_split_heads", False):
        _refuse("the storage backend does not share pages between sizes of tensor parallelism")
    for field in ("attn_cp_size", "dcp_size"):
        if getattr(config, field, 1) > 1:
            _refuse(f"the storage backend does not serve context parallelism ({field})")


def check_page_size(page_size: int, config: CacheConfig) -> None:
    """Refuse pages of HiCache's that are too short for their name, or for servers to be asked.

    Raises:
        UnsupportedError: Names the least size that is served.
    """
    if page_size < _NAME_TOKENS:
        _refuse(
            f"the storage backend needs --page-size {_NAME_TOKENS} or more: a page's name has to "
            "fit into its tokens"
        )
    least = config.chunk_tokens // _LEAST_SHARE
    if config.remotes and page_size < least:
        _refuse(
            f"the storage backend needs --page-size {least} or more over `remotes`, or smaller "
            "`chunk_tokens`: servers are asked for a quarter of a chunk or more"
        )


def check_arguments(args: Any) -> None:
    """Refuse flags that contradict `--radix-cache-backend radixkv`, before SGLang resolves them.

    Raises:
        UnsupportedError: Names both flags and what to do.
    """
    for field, flag in _REPLACED.items():
        if getattr(args, field, False):
            _refuse(f"{flag} contradicts --radix-cache-backend radixkv; leave out one of the two")
    for field, flag in _NOT_SERVED.items():
        if getattr(args, field, False):
            _refuse(
                f"{flag} is not served by --radix-cache-backend radixkv; leave out one of the two"
            )
    if getattr(args, "enable_streaming_session", False) and not _tree_keeps_sessions():
        _refuse(
            "--enable-streaming-session is not served by --radix-cache-backend radixkv before "
            "SGLang 0.5.21; leave out one of the two"
        )
    if getattr(args, "hicache_storage_backend", None):
        _refuse(
            "--hicache-storage-backend contradicts --radix-cache-backend radixkv, which has tiers "
            "of its own: leave it out and name a disk in --radixkv-config"
        )
    if getattr(args, "hicache_host_memory_mode", "cache") not in (None, "cache"):
        _refuse(
            "--hicache-host-memory-mode contradicts --radix-cache-backend radixkv, which keeps no "
            "host pool of SGLang's; leave it out"
        )
    if getattr(args, "speculative_algorithm", None):
        _refuse(
            "--speculative-algorithm is not served by --radix-cache-backend radixkv: the draft's "
            "KV would not come back"
        )
    for field, flag in (
        ("pp_size", "--pp-size"),
        ("dp_size", "--dp-size"),
        ("dcp_size", "--dcp-size"),
        ("attn_cp_size", "--attn-cp-size"),
    ):
        if (getattr(args, field, 1) or 1) > 1:
            _refuse(f"{flag} above 1 is not served by --radix-cache-backend radixkv")
    if getattr(args, "disaggregation_mode", "null") not in (None, "null"):
        _refuse("--disaggregation-mode is not served by --radix-cache-backend radixkv")


def _tree_keeps_sessions() -> bool:
    """Whether SGLang's own tree has the KV of streaming sessions, and not a wrapper around it."""
    from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache

    return not hasattr(BasePrefixCache, "cache_finished_req")


def check_model(ctx: Any) -> None:
    """Refuse models and memory pools that hold more than plain attention KV.

    Raises:
        UnsupportedError: Names what is not served.
    """
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool

    if ctx.params.disable:
        _refuse("SGLang has switched its radix cache off for this model and these flags")
    if ctx.is_hybrid_swa:
        _refuse("models with sliding-window attention are not served")
    if ctx.is_hybrid_ssm:
        _refuse("models with Mamba or linear-attention layers are not served")
    if ctx.params.is_eagle:
        _refuse("speculative decoding is not served")
    pool = ctx.params.token_to_kv_pool_allocator.get_kvcache()
    if type(pool) not in (MHATokenToKVPool, MLATokenToKVPool):
        _refuse(
            f"the KV pool {type(pool).__name__} is not served, only MHATokenToKVPool and "
            "MLATokenToKVPool"
        )
    if getattr(pool, "is_quantized_kv_cache", False):
        _refuse(
            "a KV cache with scales of its own (--kv-cache-dtype of a packed format) is not served"
        )
    if getattr(pool, "kv_cache_layout", "nhd") != "nhd":
        _refuse(f"the KV layout {pool.kv_cache_layout} is not served, only nhd")
    _check_prefill_graph(ctx.server_args)


def _check_prefill_graph(args: Any) -> None:
    """A prefill graph captured whole replays no layer waits: it would read KV too early."""
    config = decided(args, "cuda_graph_config")
    backend = getattr(getattr(config, "prefill", None), "backend", "disabled")
    if decided(args, "device", "cuda") != "cpu" and backend in ("full", "tc_piecewise"):
        _refuse(
            f"the prefill CUDA graph backend {backend!r} is not served: choose breakable or "
            "disabled in --cuda-graph-config"
        )


def _refuse(reason: str) -> None:
    raise UnsupportedError(f"radixkv: {reason}")
