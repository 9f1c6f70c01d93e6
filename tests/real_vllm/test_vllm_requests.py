"""Who shares with whom: roles, what a request wishes, salts, other models, other connectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload, assert_second_turns_reuse_the_first
from sglang_models import write_llama
from vllm_harness import HostError, VllmHost, connector
from vllm_models import write_adapter


@pytest.fixture(scope="module")
def workload(workload_for: Callable[..., Workload]) -> Workload:
    return workload_for("mha", "float32")


def ask(host: VllmHost, prompt: Ids, **wishes: Any) -> dict[str, Any]:
    """An answer where the device has nothing and all that was kept is ready."""
    assert host.settle()
    host.reset_prefix_cache()
    (answer,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS, **wishes)
    return answer


def test_a_salt_shares_with_itself_only(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    host.start(models["mha"], connector())
    prompt = workload.first[-1]

    cached = [
        ask(host, prompt, cache_salt=salt)["cached_tokens"] > 0
        for salt in ("a", "b", None, "a", "b", None)
    ]

    assert cached == [False] * 3 + [True] * 3


def test_salts_without_end_are_not_all_remembered_and_keep_what_is_theirs(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    host.start(models["mha"], connector())
    prompt = workload.first[-1]
    ask(host, prompt, cache_salt="a")
    salts = ["a", *(f"user {number}" for number in range(5000))]

    found = host.trees_of_salts(salts=salts)
    again = host.trees_of_salts(salts=salts[::-1])

    assert found["remembered"] == again["remembered"] == 4096
    assert again["trees"][::-1] == found["trees"]
    assert len(set(found["trees"])) == len(salts)
    assert ask(host, prompt, cache_salt="a")["cached_tokens"] > 0
    assert ask(host, prompt, cache_salt=salts[1])["cached_tokens"] == 0


def test_an_adapter_shares_with_itself_only(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    adapters = [str(write_adapter(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    prompt, names = workload.first[-1], [*adapters, None]
    engine = {"enable_lora": True, "max_loras": 2}
    host.start(models["mha"], **engine)
    expected = [
        host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS, adapter=name)[0]["ids"]
        for name in names
    ]
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)

    answers = [ask(host, prompt, adapter=name) for name in names * 2]
    host.settle()
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    answers += [ask(host, prompt, adapter=name) for name in names]

    assert [answer["ids"] for answer in answers] == expected * 3
    assert expected[0] != expected[1] != expected[2] != expected[0]
    assert [answer["cached_tokens"] > 0 for answer in answers] == [False] * 3 + [True] * 6


def test_embeddings_are_neither_found_nor_kept(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    """They stand where token ids stand otherwise, and nobody can tell which KV they give."""
    prompt, expected = workload.first[-1], workload.first_answers[-1]
    host.start(models["mha"], connector(), enable_prompt_embeds=True)

    for _ in range(2):
        answer = ask(host, prompt, as_embeddings=str(models["mha"]))
        assert (answer["ids"], answer["cached_tokens"]) == (expected, 0)
    assert host.state()["counters"]["stored"] == 0
    ask(host, prompt)
    answer = ask(host, prompt, as_embeddings=str(models["mha"]))
    assert (answer["ids"], answer["cached_tokens"]) == (expected, 0)


def test_a_request_may_wish_not_to_be_read_or_written(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    host.start(models["mha"], connector())
    prompt, expected = workload.first[-1], workload.first_answers[-1]
    unwritten = {"radixkv": {"write": False}}
    unread = {"radixkv": {"read": False}}

    assert ask(host, prompt, kv_transfer_params=unwritten)["cached_tokens"] == 0
    assert ask(host, prompt)["cached_tokens"] == 0  # and is kept
    assert ask(host, prompt, kv_transfer_params=unread)["cached_tokens"] == 0
    for not_understood in (7, {"reed": False}, {"read": "no"}):
        wishes = {"radixkv": not_understood}
        assert ask(host, prompt, kv_transfer_params=wishes)["cached_tokens"] == 0
    assert ask(host, prompt)["cached_tokens"] > 0
    assert ask(host, prompt)["ids"] == expected


def test_a_producer_does_not_read_and_a_consumer_does_not_write(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    prompt, other = workload.first[-1], workload.first[2]

    host.start(models["mha"], connector(role="kv_producer", disk=tmp_path))
    assert ask(host, prompt)["cached_tokens"] == 0
    assert ask(host, prompt)["cached_tokens"] == 0
    host.settle()
    kept = host.state()["disk_chunks"]

    host.start(models["mha"], connector(role="kv_consumer", disk=tmp_path))
    assert ask(host, prompt)["cached_tokens"] > 0
    assert ask(host, other)["ids"] == workload.first_answers[2]
    assert ask(host, other)["cached_tokens"] == 0
    assert host.state()["disk_chunks"] == kept > 0


def test_other_weights_find_nothing(
    host: VllmHost, models: dict[str, Path], workload: Workload, tmp_path: Path
) -> None:
    prompt = workload.first[-1]
    host.start(models["mha"], connector(disk=tmp_path / "kv"))
    ask(host, prompt)
    host.settle()

    host.start(write_llama(tmp_path / "llama", seed=2), connector(disk=tmp_path / "kv"))
    assert ask(host, prompt)["cached_tokens"] == 0
    host.settle()

    host.start(models["mha"], connector(disk=tmp_path / "kv"))
    answer = ask(host, prompt)
    assert answer["cached_tokens"] > 0
    assert answer["ids"] == workload.first_answers[-1]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"loads": "later"}, "loads: expected one of async, sync, auto, got 'later'"),
        ({"memry": {"size": "1GiB"}}, "unknown key 'memry.size'"),
        ({"config": 5}, "config: expected the path of a YAML file, got 5"),
    ],
)
def test_a_wrong_setting_ends_the_start(
    host: VllmHost, models: dict[str, Path], wrong: dict[str, Any], named: str
) -> None:
    with pytest.raises(HostError, match=named):
        host.start(models["mha"], connector() | {"kv_connector_extra_config": wrong})


def test_the_longest_chunks_are_whole_blocks(
    host: VllmHost, models: dict[str, Path], workload: Workload
) -> None:
    host.start(models["mha"], connector(chunk_tokens=512), block_size=96)

    assert_second_turns_reuse_the_first(host, workload)
