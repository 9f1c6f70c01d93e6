"""What radixkv does not serve ends the start, with a message that names it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sglang_harness import engine_python

FLAGS = [
    "--enable-hierarchical-cache",
    "--hicache-storage-backend file",
    "--enable-lmcache",
    "--enable-flexkv",
    "--disable-radix-cache",
    "--speculative-algorithm NGRAM",
    "--pp-size 2",
    "--dp-size 2",
    "--disaggregation-mode prefill",
    "--enable-streaming-session",
    "--enable-session-radix-cache",
    "--enable-unified-cache-external-linker",
    "--enable-unified-memory",
    "--hicache-host-memory-mode buffer_only",
    "--enable-kv-cache-sharding",
    "--dllm-algorithm LowConfidence",
    "--enable-pdmux",
    "--enable-mis",
    "--enable-return-routed-experts",
    "--enable-return-indexer-topk",
    "--dcp-size 2",
    "--attn-cp-size 2",
]
SERVED_IN = {"--enable-streaming-session": ("0.5.21", "0.5.22", "0.5.23")}
VERSIONS = [
    "0.5.18",
    "0.5.23",
    *(
        pytest.param(version, marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.20", "0.5.21", "0.5.22")
    ),
]
pytestmark = pytest.mark.parametrize("version", VERSIONS, scope="module")


@pytest.fixture(scope="module")
def said(version: str, models: dict[str, Path]) -> dict[str, Any]:
    """One process tries everything: importing SGLang is what takes time."""
    common = f"--model-path {models['mha']} --device cpu --radix-cache-backend radixkv"
    script = Path(__file__).with_name("refusals.py")
    done = subprocess.run(
        [engine_python(f"sglang-{version}"), "-P", script],
        input=json.dumps([common, *(f"{common} {flag}" for flag in FLAGS)]),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    by_flag = {
        line.removeprefix(common).strip(): text for line, text in answers["arguments"].items()
    }
    return {**answers, "flags": by_flag}


def test_the_flag_alone_is_accepted(said: dict[str, Any]) -> None:
    assert said["flags"][""] == "accepted"


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_that_is_not_served_is_named(said: dict[str, Any], flag: str, version: str) -> None:
    name = flag.split()[0]
    if said["flags"][flag] == "no such flag":
        pytest.skip(f"this version of SGLang has no {name}")
    if version in SERVED_IN.get(name, ()):
        assert said["flags"][flag] == "accepted"
        return

    assert said["flags"][flag].startswith("UnsupportedError: ")
    assert name in said["flags"][flag]
    assert "--radix-cache-backend radixkv" in said["flags"][flag]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("radix cache off", "switched its radix cache off"),
        ("sliding window", "sliding-window attention"),
        ("mamba", "Mamba"),
        ("full prefill graph", "prefill CUDA graph"),
        ("DSATokenToKVPool", "DSATokenToKVPool"),
        ("MHATokenToKVPoolFP4", "MHATokenToKVPoolFP4"),
    ],
)
def test_a_model_that_is_not_served_is_named(said: dict[str, Any], model: str, words: str) -> None:
    assert said["models"][model].startswith("UnsupportedError: ")
    assert words in said["models"][model]


@pytest.mark.parametrize("pool", ["MHATokenToKVPool", "MLATokenToKVPool"])
def test_plain_attention_is_served(said: dict[str, Any], pool: str) -> None:
    assert said["models"][pool] == "accepted"


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("interface v0", '"interface_v1": 1'),
        ("MLA on two ranks", "joint latents (MLA) under tensor parallelism"),
        ("pages of several sizes of TP", "between sizes of tensor parallelism"),
        ("split heads", "between sizes of tensor parallelism"),
        ("attention on two context ranks", "context parallelism (attn_cp_size)"),
        ("decoding on two context ranks", "context parallelism (dcp_size)"),
        ("pages of 4", "--page-size 8 or more"),
        ("pages of 8 over a remote server", "--page-size 16 or more"),
    ],
)
def test_storage_of_hicache_that_is_not_served_is_named(
    said: dict[str, Any], storage: str, words: str
) -> None:
    assert said["storages"][storage].startswith("UnsupportedError: ")
    assert words in said["storages"][storage]


def test_plain_storage_of_hicache_is_served(said: dict[str, Any]) -> None:
    assert said["storages"]["plain"] == said["storages"]["two ranks"] == "accepted"


@pytest.mark.parametrize("release", ["0.5.14", "0.5.24", "0.6.0"])
def test_a_release_out_of_range_is_told_the_range(said: dict[str, Any], release: str) -> None:
    assert said["releases"][release].startswith(f"UnsupportedError: radixkv: SGLang {release} ")
    assert "only 0.5.15 to 0.5.23" in said["releases"][release]
