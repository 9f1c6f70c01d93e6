"""vLLM's event publisher tells what memory and disk hold, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Ids, Workload
from event_subscriber import EventSubscriber
from vllm_harness import VllmHost, connector

CHUNK_TOKENS = 64


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path / 'events'}"


@pytest.fixture(scope="module")
def prompts(workload_for: Callable[..., Workload]) -> list[Ids]:
    workload = workload_for("mha", "float32")
    return workload.first + workload.second


def full_chunks(num_tokens: int) -> int:
    return num_tokens // CHUNK_TOKENS * CHUNK_TOKENS


def told(subscriber: EventSubscriber, prompt: Ids, *media: str, **whose: Any) -> int:
    """How much of a prompt the events say to be held."""
    held = subscriber.prompts(*media, **whose)
    return max((len(ids) for ids in held if tuple(prompt[: len(ids)]) == ids), default=0)


def assert_events_tell_what_is_kept(
    host: VllmHost, subscriber: EventSubscriber, prompts: list[Ids]
) -> None:
    """Of every prompt the events say what a match says, on both tiers and in memory alone."""
    assert host.settle()
    kept = [host.kept_tokens(prompt=prompt) for prompt in prompts]
    expected = [(full_chunks(found["any"]), full_chunks(found["memory"])) for found in kept]

    def heard() -> list[tuple[int, int]]:
        return [
            (told(subscriber, prompt, "CPU", "STORAGE"), told(subscriber, prompt, "CPU"))
            for prompt in prompts
        ]

    subscriber.await_that(lambda: heard() == expected)
    assert heard() == expected
    assert any(anywhere for anywhere, _ in expected)


def test_events_say_what_a_match_finds(
    host: VllmHost, models: dict[str, Path], prompts: list[Ids], endpoint: str, tmp_path: Path
) -> None:
    """Memory for 512 tokens, a disk for 1,536: chunks come, move, leave and come back."""
    settings = connector(disk=tmp_path / "kv", memory="1MiB", disk_size="3MiB")
    with EventSubscriber(endpoint) as subscriber:
        host.start(models["mha"], settings, events_endpoint=endpoint)
        for prompt in prompts:
            host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)
        assert_events_tell_what_is_kept(host, subscriber, prompts)
        for prompt in prompts[:4]:
            host.generate(prompts=[prompt], max_tokens=MAX_NEW_TOKENS)
        assert_events_tell_what_is_kept(host, subscriber, prompts)


def test_events_say_what_a_disk_holds_at_start(
    host: VllmHost, models: dict[str, Path], prompts: list[Ids], endpoint: str, tmp_path: Path
) -> None:
    settings = connector(disk=tmp_path / "kv")
    host.start(models["mha"], settings)
    host.generate(prompts=prompts, max_tokens=MAX_NEW_TOKENS)
    assert host.settle()
    with EventSubscriber(endpoint) as subscriber:
        host.start(models["mha"], settings, events_endpoint=endpoint)

        host.generate(prompts=[[7] * 20], max_tokens=1)

        assert_events_tell_what_is_kept(host, subscriber, prompts)


def test_events_say_whose_a_salted_prompt_is(
    host: VllmHost, models: dict[str, Path], prompts: list[Ids], endpoint: str
) -> None:
    prompt, kept = prompts[-1], full_chunks(len(prompts[-1]))
    with EventSubscriber(endpoint) as subscriber:
        host.start(models["mha"], connector(), events_endpoint=endpoint)
        host.generate(prompts=[prompt], max_tokens=1, cache_salt="a")
        host.settle()

        assert subscriber.await_that(
            lambda: told(subscriber, prompt, "CPU", extra_keys=["a"]) == kept
        )
        assert told(subscriber, prompt, "CPU") == 0
