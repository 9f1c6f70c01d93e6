"""Runs inside an engine's environment: tries what radixkv refuses, and prints what was said.

Reads a list of command lines from stdin. Writes one JSON object: what each command line was
answered with, each kind of model or memory pool, each way to be HiCache's storage, and each
release.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from sglang.srt.mem_cache import memory_pool
from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import prepare_server_args


def said(call: Any, *args: Any) -> str:
    try:
        call(*args)
    except SystemExit:
        return "no such flag"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def resolve(line: str) -> None:
    """Reads a command line as SGLang's launcher does, and completes it (0.5.20: in a step of its
    own)."""
    arguments = prepare_server_args(line.split())
    if hasattr(arguments, "resolve_once"):
        arguments.resolve_once()


def build_context(pool_type: type, *, disable: bool = False, **changes: Any) -> Any:
    """As much of SGLang's context as is looked at when the cache is built."""
    pool = object.__new__(pool_type)
    allocator = SimpleNamespace(get_kvcache=lambda: pool)
    params = SimpleNamespace(token_to_kv_pool_allocator=allocator, is_eagle=False, disable=disable)
    context = {"is_hybrid_swa": False, "is_hybrid_ssm": False, "params": params}
    return SimpleNamespace(**context | {"server_args": SimpleNamespace(device="cpu")} | changes)


def decided_on_gpu(line: str, graph: Any) -> Any:
    """Arguments for which SGLang decides on a GPU and this configuration of graphs."""
    arguments = prepare_server_args(line.split())
    decisions = {"device": "cuda", "cuda_graph_config": graph}
    if hasattr(arguments, "resolve_once"):  # from 0.5.20 on, what was given stays as it is
        from sglang.srt.arg_groups.overrides import declare_resolution

        arguments.resolve_once()
        declare_resolution(arguments, "test", **decisions)
    else:
        for name, value in decisions.items():
            object.__setattr__(arguments, name, value)  # it is read-only by now
    return arguments


def storages() -> dict[str, str]:
    """What is said to each configuration of HiCache's storage, and to each size of a page."""
    from radixkv import CacheConfig
    from sglang_ext.support import check_page_size, check_storage

    plain = {"extra_config": {"interface_v1": 1}, "is_mla_model": False, "tp_size": 1}
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "two ranks": {"tp_size": 2},
        "interface v0": {"extra_config": None},
        "MLA on two ranks": {"is_mla_model": True, "tp_size": 2},
        "pages of several sizes of TP": {"tp_lcm_size": 4},
        "split heads": {"should_split_heads": True},
        "attention on two context ranks": {"attn_cp_size": 2},
        "decoding on two context ranks": {"dcp_size": 2},
    }
    remote = CacheConfig.from_mapping({"remotes": ["unix:///nowhere"]})
    return {
        name: said(check_storage, SimpleNamespace(**plain | more)) for name, more in changes.items()
    } | {
        "pages of 4": said(check_page_size, 4, CacheConfig()),
        "pages of 8 over a remote server": said(check_page_size, 8, remote),
    }


def main() -> None:
    load_plugins()
    from sglang_ext.support import check_model, check_release

    lines = json.load(sys.stdin)
    arguments = {line: said(resolve, line) for line in lines}
    graph = SimpleNamespace(prefill=SimpleNamespace(backend="full"))
    on_gpu = decided_on_gpu(lines[0], graph)
    plain = memory_pool.MHATokenToKVPool
    contexts = {
        "radix cache off": build_context(plain, disable=True),
        "sliding window": build_context(plain, is_hybrid_swa=True),
        "mamba": build_context(plain, is_hybrid_ssm=True),
        "full prefill graph": build_context(plain, server_args=on_gpu),
        "DSATokenToKVPool": build_context(memory_pool.DSATokenToKVPool),
        "MHATokenToKVPoolFP4": build_context(memory_pool.MHATokenToKVPoolFP4),
        "MHATokenToKVPool": build_context(plain),
        "MLATokenToKVPool": build_context(memory_pool.MLATokenToKVPool),
    }
    models = {name: said(check_model, context) for name, context in contexts.items()}
    releases = {name: said(check_release, name) for name in ("0.5.14", "0.5.24", "0.6.0")}
    answers = {"arguments": arguments, "models": models, "releases": releases}
    print(json.dumps(answers | {"storages": storages()}))


if __name__ == "__main__":
    main()
