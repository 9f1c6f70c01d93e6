"""What an engine has written to a Redis another one finds there; or it is computed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conversations import MAX_NEW_TOKENS, Workload, random_ids
from redis_server import RedisServer, running_server
from vllm_harness import VllmHost, connector


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    yield from running_server(tmp_path)


def test_one_engine_loads_what_another_computed_until_the_server_dies(
    host: VllmHost,
    models: dict[str, Path],
    workload_for: Callable[..., Workload],
    redis: RedisServer,
) -> None:
    workload = workload_for("mha", "float32")
    remotes = [f"{redis.unix_url}?timeout=500ms"]

    def ask(prompts: list[list[int]]) -> list[list[int]]:
        answers = [host.generate(prompts=[ids], max_tokens=MAX_NEW_TOKENS)[0] for ids in prompts]
        assert host.settle()
        return [answer["ids"] for answer in answers]

    def counters() -> dict[str, Any]:
        found: dict[str, Any] = host.state()["counters"]
        return found

    host.start(models["mha"], connector(remotes=remotes))
    assert ask(workload.first) == workload.first_answers
    assert counters()["put"] == counters()["stored"] > 0

    host.start(models["mha"], connector(remotes=remotes))  # it has nothing
    num_half = len(workload.second) // 2
    assert ask(workload.second[:num_half]) == workload.second_answers[:num_half]
    got = counters()["got"]
    assert got >= sum(len(ids) // 64 * 64 for ids in workload.first[:num_half]) // 2
    redis.kill()
    assert ask(workload.second[num_half:]) == workload.second_answers[num_half:]

    state = host.state()
    assert state["counters"]["loads_failed"] == state["counters"]["gets_corrupt"] == 0
    assert state["pending"] == state["requests"] == state["uses"] == state["writing"] == 0


def test_a_tail_leaves_while_a_request_that_found_it_waits(
    host: VllmHost, models: dict[str, Path], redis: RedisServer
) -> None:
    """Another request stores all of it but two tokens, and more; its place is better used. What
    the waiting request looks for on the server holds it until then.
    """
    rng = random.Random(31)
    document = random_ids(rng, 97)
    almost = document[:94] + random_ids(rng, 60)
    waiting = document + random_ids(rng, 40)
    host.start(models["mha"], enable_prefix_caching=False)
    (expected,) = host.generate(prompts=[waiting], max_tokens=MAX_NEW_TOKENS)
    host.start(models["mha"], connector(remotes=[redis.unix_url]), max_num_seqs=1)
    host.generate(prompts=[document], max_tokens=1)
    assert host.settle()
    host.reset_prefix_cache()
    assert host.kept_tokens(prompt=document)["memory"] == 96

    host.submit(request_id="almost", prompt=almost, max_tokens=24)
    host.submit(request_id="waiting", prompt=waiting, max_tokens=MAX_NEW_TOKENS)
    while host.step():
        pass

    assert host.take_finished()["waiting"]["ids"] == expected["ids"]
    assert host.settle()
    assert host.state()["counters"]["loads_failed"] == 0
