"""Weights, adapters and configurations that are other ones than the model's folder says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload
from sglang_models import write_llama
from vllm_harness import VllmHost, connector
from vllm_models import write_adapter


@pytest.fixture(scope="module")
def prompt(workload_for: Callable[..., Workload]) -> Ids:
    return workload_for("mha", "float32").first[-1]


@pytest.fixture
def expected(workload_for: Callable[..., Workload]) -> Ids:
    return workload_for("mha", "float32").first_answers[-1]


def ask(host: VllmHost, prompt: Ids, **wishes: Any) -> dict[str, Any]:
    """An answer where the device has nothing and all that was kept is ready."""
    assert host.settle()
    host.reset_prefix_cache()
    return answer_of(host, prompt, **wishes)


def answer_of(host: VllmHost, prompt: Ids, **wishes: Any) -> dict[str, Any]:
    answer: dict[str, Any]
    (answer,) = host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS, **wishes)
    return answer


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "other", seed=2)


@pytest.fixture
def other_answer(host: VllmHost, other_model: Path, prompt: Ids) -> Ids:
    host.start(other_model)
    ids: Ids = answer_of(host, prompt)["ids"]
    return ids


def test_what_new_weights_computed_is_gone_when_the_old_ones_are_loaded_again(
    host: VllmHost,
    models: dict[str, Path],
    prompt: Ids,
    expected: Ids,
    other_model: Path,
    other_answer: Ids,
    tmp_path: Path,
) -> None:
    host.start(models["mha"], connector(disk=tmp_path / "kv"))
    ask(host, prompt)
    host.reload_weights(folder=str(other_model))
    host.reset_prefix_cache(reset_connector=True)
    first, again = ask(host, prompt), ask(host, prompt)
    host.settle()

    host.start(models["mha"], connector(disk=tmp_path / "kv"))
    old = ask(host, prompt)

    assert first["ids"] == again["ids"] == other_answer != expected
    assert [answer["cached_tokens"] > 0 for answer in (first, again, old)] == [False, True, False]
    assert old["ids"] == expected


def test_what_was_being_loaded_at_a_reset_is_not_kept(
    host: VllmHost, models: dict[str, Path], prompt: Ids, other_model: Path, other_answer: Ids
) -> None:
    host.start(models["mha"], connector())
    ask(host, prompt)
    host.settle()
    host.reset_prefix_cache()
    host.hold(kind="load")
    host.submit(request_id="waits", prompt=prompt, max_tokens=MAX_NEW_TOKENS)
    host.step(num_steps=2)

    host.reload_weights(folder=str(other_model))
    host.reset_prefix_cache(reset_connector=True)
    host.release()
    while host.step():
        pass
    host.take_finished()
    answer = ask(host, prompt)

    assert (answer["ids"], answer["cached_tokens"]) == (other_answer, 0)


def test_what_waits_for_the_disk_at_a_reset_is_kept_as_of_the_new_weights(
    host: VllmHost,
    models: dict[str, Path],
    prompt: Ids,
    expected: Ids,
    other_model: Path,
    other_answer: Ids,
    tmp_path: Path,
) -> None:
    disk = connector(disk=tmp_path / "kv", prefetch={"deadline": "10s"})
    host.start(models["mha"], disk)
    ask(host, prompt)
    host.settle()
    host.start(models["mha"], disk)
    host.hold(kind="fetch")
    host.submit(request_id="waits", prompt=prompt, max_tokens=MAX_NEW_TOKENS)
    host.step(num_steps=2)

    host.reload_weights(folder=str(other_model))
    host.reset_prefix_cache(reset_connector=True)
    host.release()
    while host.step():
        pass
    waited = host.take_finished()["waits"]
    again = ask(host, prompt)
    host.settle()
    host.start(models["mha"], disk)
    old = ask(host, prompt)

    assert waited["ids"] == again["ids"] == other_answer
    assert [answer["cached_tokens"] > 0 for answer in (waited, again, old)] == [False, True, False]
    assert old["ids"] == expected


def test_an_adapter_that_lies_where_another_was_loaded_from(
    host: VllmHost, models: dict[str, Path], prompt: Ids, tmp_path: Path
) -> None:
    """vLLM reads an adapter when it starts, or is told to. The first request may be much later."""
    versions = [write_adapter(tmp_path / name, seed) for seed, name in enumerate("ab")]
    latest = tmp_path / "latest"
    shutil.copytree(versions[0], latest)
    engine = {"enable_lora": True}
    host.start(models["mha"], **engine)
    wanted = [answer_of(host, prompt, adapter=str(version))["ids"] for version in versions]
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    host.load_adapter(adapter=str(latest))

    shutil.copytree(versions[1], latest, dirs_exist_ok=True)
    answers = [ask(host, prompt, adapter=str(latest)) for _ in range(2)]
    host.forget_adapters()  # it is loaded again, under another number
    answers.append(ask(host, prompt, adapter=str(latest)))
    host.settle()
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    answers += [ask(host, prompt, adapter=str(latest)) for _ in range(2)]

    assert [answer["ids"] for answer in answers] == [wanted[0]] * 2 + [wanted[1]] * 3
    found = [answer["cached_tokens"] > 0 for answer in answers]
    assert found == [False, True, False, False, True]


@pytest.mark.parametrize("waits", [False, True], ids=["asked later", "waiting meanwhile"])
def test_an_adapter_that_vllm_drops_and_reads_again_where_another_lies_by_then(
    host: VllmHost, models: dict[str, Path], prompt: Ids, tmp_path: Path, waits: bool
) -> None:
    old, new, other = (str(write_adapter(tmp_path / name, seed)) for seed, name in enumerate("abc"))
    place = str(tmp_path / "place")
    shutil.copytree(old, place)
    another_prompt = prompt[::-1]
    engine = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1}
    host.start(models["mha"], **engine)
    wanted = answer_of(host, prompt, adapter=new)["ids"]
    wanted_of_old = answer_of(host, another_prompt, adapter=old)["ids"]
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    ask(host, prompt, adapter=place)
    host.settle()
    host.reset_prefix_cache()

    host.submit(request_id="other", prompt=prompt, max_tokens=MAX_NEW_TOKENS, adapter=other)
    host.step()
    if waits:
        host.submit(request_id="waits", prompt=prompt, max_tokens=MAX_NEW_TOKENS, adapter=place)
        host.step()
    shutil.copytree(new, place, dirs_exist_ok=True)
    while host.step():
        pass
    answers = [host.take_finished()["waits"]] if waits else []
    answers += [ask(host, prompt, adapter=place) for _ in range(2)]
    ask(host, another_prompt, adapter=place)
    host.settle()
    shutil.copytree(old, place, dirs_exist_ok=True)
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    of_old = ask(host, another_prompt, adapter=place)

    assert [answer["ids"] for answer in answers] == [wanted] * len(answers)
    assert not any(answer["cached_tokens"] for answer in answers)
    assert (of_old["ids"], of_old["cached_tokens"]) == (wanted_of_old, 0)
    assert ask(host, prompt, adapter=place)["cached_tokens"] > 0


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "by a request"])
def test_an_adapter_that_is_replaced_in_place_while_a_request_runs_with_it(
    host: VllmHost, models: dict[str, Path], prompt: Ids, tmp_path: Path, at_once: bool
) -> None:
    old, new = (str(write_adapter(tmp_path / name, seed)) for seed, name in enumerate("ab"))
    engine = {"enable_lora": True}
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    host.submit(request_id="runs", prompt=prompt, max_tokens=200, adapter=old)
    host.step(num_steps=20)
    host.replace_adapter(adapter=old, by=new, at_once=at_once)
    if not at_once:
        host.submit(request_id="new", prompt=prompt, max_tokens=1, adapter=new)
    while host.step():
        pass
    continued = prompt + host.take_finished()["runs"]["ids"][:-1] + [3]
    host.settle()
    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    host.forget_adapters()

    answer = ask(host, continued, adapter=old)
    host.start(models["mha"], **engine)
    expected = answer_of(host, continued, adapter=old)["ids"]

    assert answer["ids"] == expected
    assert 0 < answer["cached_tokens"] <= len(prompt) + 20  # what was stored before


def test_an_adapter_whose_files_are_written_again_as_they_were(
    host: VllmHost, models: dict[str, Path], prompt: Ids, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    host.start(models["mha"], connector(), enable_lora=True)
    first = ask(host, prompt, adapter=str(adapter))

    for file in list(adapter.iterdir()):
        shutil.copy(file, tmp_path / "copy")
        (tmp_path / "copy").replace(file)
    again = ask(host, prompt, adapter=str(adapter))

    assert again["ids"] == first["ids"]
    assert again["cached_tokens"] > 0


def test_the_same_weights_under_another_configuration_find_nothing(
    host: VllmHost, models: dict[str, Path], prompt: Ids, tmp_path: Path
) -> None:
    """vLLM can take a model's configuration from a folder of its own."""
    config = json.loads((models["mha"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    engine = {"hf_config_path": str(tmp_path)}
    host.start(models["mha"], **engine)
    expected = answer_of(host, prompt)["ids"]
    host.start(models["mha"], connector(disk=tmp_path / "kv"))
    plain = ask(host, prompt)
    host.settle()

    host.start(models["mha"], connector(disk=tmp_path / "kv"), **engine)
    answers = [ask(host, prompt) for _ in range(2)]

    assert [answer["ids"] for answer in answers] == [expected] * 2
    assert [answer["cached_tokens"] > 0 for answer in answers] == [False, True]
    assert plain["ids"] != expected
