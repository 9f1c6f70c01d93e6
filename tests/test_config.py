"""CacheConfig: defaults, files, messages, division among ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from radixkv import config, host_memory
from radixkv.config import CacheConfig
from radixkv.errors import ConfigError

GIB = 1 << 30


def write(folder: Path, text: str) -> Path:
    path = folder / "radixkv.yaml"
    path.write_text(text)
    return path


def test_defaults_give_memory_and_no_disk():
    settings = CacheConfig()

    assert settings.memory_size_bytes >= 64 << 20
    assert settings.disk_path is None
    assert settings.chunk_tokens == 64


@pytest.mark.parametrize(
    ("membership", "limits"),
    [
        ("0::/job/step\n", {"job/memory.max": 8 * GIB, "job/step/memory.max": "max"}),
        ("0::/\n", {"memory.max": 8 * GIB}),
        (
            "9:cpu:/\n4:hugetlb,memory:/docker/1f\n0::/docker/1f\n",
            {"memory/memory.limit_in_bytes": 8 * GIB},
        ),
    ],
)
def test_the_default_is_a_quarter_of_what_the_control_groups_leave(
    tmp_path, monkeypatch, membership, limits
):
    monkeypatch.setattr(host_memory, "MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(host_memory, "HIERARCHY", tmp_path)
    monkeypatch.setattr(host_memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": GIB}.get)
    assert CacheConfig().memory_size_bytes == 1024 * GIB  # no group limits anything

    (tmp_path / "cgroup").write_text(membership)
    for name, limit in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{limit}\n")

    assert CacheConfig().memory_size_bytes == 2 * GIB


def test_a_file_nests_what_python_has_flat(tmp_path):
    path = write(
        tmp_path,
        "chunk_tokens: 128\n"
        "memory: {size: 20GiB, numa: any}\n"
        "disk: {path: /data, size: 1.5TiB, durable: none}\n"
        "prefetch: {budget: 0, deadline: 500ms}\n"
        "store: {decode: false}\n",
    )

    settings = CacheConfig.load(path)

    assert settings.chunk_tokens == 128
    assert settings.memory_size_bytes == 20 * GIB
    assert settings.memory_numa == "any"
    assert settings.disk_path == Path("/data")
    assert settings.disk_size_bytes == 1536 * GIB
    assert settings.disk_durable == "none"
    assert settings.prefetch_budget_bytes == 0
    assert settings.prefetch_deadline_s == 0.5
    assert settings.store_decode is False
    assert settings.tail_slack == CacheConfig().tail_slack


def test_an_empty_file_or_group_gives_the_defaults(tmp_path):
    assert CacheConfig.load(write(tmp_path, "")) == CacheConfig()
    assert CacheConfig.load(write(tmp_path, "memory:\n  # size: 1GiB\n")) == CacheConfig()


def test_home_is_expanded_in_a_files_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")

    settings = CacheConfig.load(write(tmp_path, "disk: {path: ~/kv}\n"))

    assert settings.disk_path == Path("/home/somebody/kv")


def test_the_environment_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RADIXKV_CONFIG", str(write(tmp_path, "tail_slack: 7\n")))
    assert CacheConfig.from_environment().tail_slack == 7

    monkeypatch.delenv("RADIXKV_CONFIG")
    assert CacheConfig.from_environment() == CacheConfig()


@pytest.mark.parametrize(
    ("mapping", "nearest"),
    [
        ({"chunk_token": 64}, "chunk_tokens"),
        ({"memory": {"sise": "1GiB"}}, "memory.size"),
        ({"hugepages": "auto"}, "memory.hugepages"),
        ({"disc": {"path": "/data"}}, "disk.path"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(mapping, nearest):
    with pytest.raises(ConfigError, match=f"nearest known one is '{nearest}'"):
        CacheConfig.from_mapping(mapping)


def test_a_key_like_no_other_is_not_answered_with_a_guess():
    with pytest.raises(ConfigError, match="unknown key '1': `radixkv config` prints them all"):
        CacheConfig.from_mapping({1: 2})


def test_a_key_written_with_a_dot_is_shown_nested():
    with pytest.raises(ConfigError, match=r"memory: \{size: …\}"):
        CacheConfig.from_mapping({"memory.size": "1GiB"})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"chunk_tokens": 8}, "chunk_tokens: expected a whole number from 16 to 512, got 8"),
        ({"chunk_tokens": True}, "chunk_tokens: expected a whole number from 16 to 512, got True"),
        ({"memory": {"size": 20}}, "memory.size: expected a size such as 20GiB, .*got 20"),
        ({"memory": {"size": "20GB"}}, "memory.size: expected a size such as 20GiB, .*got '20GB'"),
        ({"memory": {"size": "1KiB"}}, "memory.size: .* from 1MiB to 1024TiB, got 1024"),
        ({"memory": {"numa": False}}, "memory.numa: expected one of local, any, got False"),
        ({"memory": "20GiB"}, "memory: expected keys below it"),
        ({"disk": {"path": 3}}, "disk.path: expected a path, in Python a Path, got 3"),
        ({"disk": {"path": ""}}, "disk.path: expected a path, in Python a Path, got ''"),
        ({"prefetch": {"deadline": "2h"}}, "prefetch.deadline: expected a duration .*got '2h'"),
        ({"store": {"max_inflight": 1.5}}, "store.max_inflight: expected a number .*got 1.5"),
        ({"store": {"decode": "yes"}}, "store.decode: expected true or false, got 'yes'"),
        ({"namespace_salt": 5}, "namespace_salt: expected a text, got 5"),
    ],
)
def test_a_wrong_value_says_key_wanted_and_given(mapping, message):
    with pytest.raises(ConfigError, match=message):
        CacheConfig.from_mapping(mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("disk: {size: 1GiB}\nchunk_tokens: 64\ndisk: {io: auto}\n", "line 3, .*'disk' stands"),
        ("disk: {size: 1GiB, size: 2GiB}\n", "line 1, column 20: 'size' stands there a second"),
        ("memory: {size: 1GiB\ndisk: {}\n", "line 2, column 5: expected ',' or '}'"),
    ],
)
def test_a_file_that_is_no_proper_yaml_names_the_line(tmp_path, text, message):
    path = tmp_path / "radixkv.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message):
        CacheConfig.load(path)


def test_python_values_are_checked_under_their_own_names():
    with pytest.raises(ConfigError, match="memory_size_bytes: expected a size"):
        CacheConfig(memory_size_bytes=1)


@pytest.mark.parametrize("text", ["[1, 2]\n", "a: [\n", "20GiB\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=r"radixkv\.yaml"):
        CacheConfig.load(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        CacheConfig.load(tmp_path / "absent.yaml")


def test_ranks_divide_the_sizes_and_share_the_rest():
    host = CacheConfig(memory_size_bytes=8 * GIB, disk_size_bytes=10 * GIB, tail_slack=2)

    share = host.for_rank(4)

    assert share.memory_size_bytes == 2 * GIB
    assert share.disk_size_bytes == 10 * GIB // 4
    assert share.prefetch_budget_bytes == host.prefetch_budget_bytes // 4
    assert share.tail_slack == 2


def test_a_share_that_is_too_small_says_so():
    with pytest.raises(ConfigError, match="divided by 4 ranks, memory_size_bytes"):
        CacheConfig(memory_size_bytes=2 << 20).for_rank(4)
    with pytest.raises(ValueError, match="world_size: expected at least 1, got 0"):
        CacheConfig().for_rank(0)


def test_the_printed_example_is_a_file_with_the_defaults(tmp_path):
    path = write(tmp_path, config.example())

    assert CacheConfig.load(path) == CacheConfig()


def test_the_printed_example_has_every_key():
    uncommented = config.example()
    for key in ("path", "size", "remotes"):
        uncommented = uncommented.replace(f"# {key}:", f"{key}:")
    document = yaml.safe_load(uncommented)
    keys = [
        f"{key}.{leaf}" if isinstance(value, dict) else key
        for key, value in document.items()
        for leaf in (value if isinstance(value, dict) else [None])
    ]

    assert len(keys) == len(CacheConfig.__slots__) <= 20
    CacheConfig.from_mapping(document)
