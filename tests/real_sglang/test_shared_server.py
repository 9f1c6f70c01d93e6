"""Two servers that share nothing but a Redis: what one computed the other loads, and no token of an
answer changes; neither when the Redis dies, nor when it hangs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prompts import MAX_NEW_TOKENS, Prompt, Workload
from redis_server import RedisServer, running_server
from sglang_harness import Generation, ServerConfig, SGLangServer, outputs
from workload_run import check_nothing_is_held

ATTENTION = "mha"
NUM_PROMPTS = 24


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    yield from running_server(tmp_path_factory.mktemp("redis"))


@pytest.fixture(scope="module")
def servers(
    redis: RedisServer, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[SGLangServer]]:
    """Two, each with memory of its own and no disk."""
    folder = tmp_path_factory.mktemp("servers")

    def start(number: int) -> SGLangServer:
        config = folder / f"radixkv{number}.yaml"
        url = f"{redis.unix_url}?timeout=500ms"
        document = {"chunk_tokens": 16, "memory": {"size": "64MiB"}, "remotes": [url]}
        config.write_text(json.dumps(document))
        return SGLangServer(
            ServerConfig(
                model=models[ATTENTION],
                log=folder / f"server{number}.log",
                cache="radixkv",
                radixkv_config=config,
            )
        )

    with ThreadPoolExecutor(2) as threads:  # a server dies with the thread that started it
        first, second = threads.map(start, range(2))
        with first, second:
            yield [first, second]


@pytest.fixture(scope="module")
def prompts(workload_for: Callable[[str], Workload]) -> list[Prompt]:
    return workload_for(ATTENTION).prompts[: 2 * NUM_PROMPTS]


def ask(server: SGLangServer, prompts: list[Prompt]) -> list[Generation]:
    """Each answer is the one of a server without cache; nothing is held when all are done."""
    answers = []
    for first in range(0, len(prompts), 8):
        batch = prompts[first : first + 8]
        answers += server.generate([prompt.ids for prompt in batch], MAX_NEW_TOKENS)
    assert outputs(answers) == [prompt.expected for prompt in prompts]
    (state,) = server.wait_until_idle()
    check_nothing_is_held(state)
    return answers


def counters(server: SGLangServer) -> dict[str, int]:
    (state,) = server.probe()
    found: dict[str, int] = state["radixkv"]["counters"]
    return found


def test_what_one_computed_the_other_loads(
    servers: list[SGLangServer], prompts: list[Prompt]
) -> None:
    first, second = servers
    ask(first, prompts[:NUM_PROMPTS])

    answers = ask(second, prompts[:NUM_PROMPTS])

    assert counters(first)["put"] == counters(first)["stored"] > 0
    assert counters(second)["got"] > 0
    assert sum(answer.storage_tokens for answer in answers) > 0
    assert second.prefilled_tokens.total() < first.prefilled_tokens.total() / 4
    assert counters(second)["gets_failed"] == counters(second)["loads_failed"] == 0


def test_answers_stay_right_when_the_redis_dies_and_when_it_hangs(
    servers: list[SGLangServer], prompts: list[Prompt], redis: RedisServer
) -> None:
    first, second = servers
    rest = prompts[NUM_PROMPTS:]
    ask(first, rest[:8])
    redis.stop()
    ask(second, rest[:8])
    redis.kill()
    ask(second, rest[8:16])

    redis.start()

    ask(first, rest[16:])
    ask(second, rest[16:])
    assert counters(second)["loads_failed"] == 0
