"""Two servers that share nothing but a Redis, or a Mooncake store: what one computed the other
loads, and no token of an answer changes; neither when that dies, nor when it hangs, nor behind a
bad wire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mooncake_server import MooncakeServer, folder_for_import
from prompts import MAX_NEW_TOKENS, Prompt, Workload
from radixkv_sglang_cpu.call_timer import CALL_LIMIT_S, NO_WAIT_S
from redis_server import RedisServer
from sglang_harness import Generation, ServerConfig, SGLangServer, outputs
from wire import Wire, why_not
from workload_run import check_nothing_is_held

ATTENTION = "mha"
Store = RedisServer | MooncakeServer
NUM_PROMPTS = 24


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire | None]:
    """Between the servers and what they share; None where there can be none."""
    if why_not() is not None:
        yield None
        return
    with Wire() as wire:
        yield wire


@pytest.fixture(scope="module", params=["redis", pytest.param("mooncake", marks=pytest.mark.soak)])
def store(
    request: pytest.FixtureRequest, wire: Wire | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """What they share."""
    folder = tmp_path_factory.mktemp("store")
    store: Store
    if request.param == "redis":
        store = RedisServer(folder, wire=wire)
    else:
        store = MooncakeServer(folder, segment_bytes=256 << 20, wire=wire)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(scope="module")
def prompts(workload_for: Callable[[str], Workload]) -> list[Prompt]:
    return workload_for(ATTENTION).prompts[: 2 * NUM_PROMPTS]


@pytest.fixture(scope="module")
def servers(
    prompts: list[Prompt],  # their answers are computed before: idle servers take CPUs too
    store: Store,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[SGLangServer]]:
    """Two, each with memory of its own and no disk."""
    folder = tmp_path_factory.mktemp("servers")
    environment = {}
    if isinstance(store, MooncakeServer):
        environment["PYTHONPATH"] = str(folder_for_import(tmp_path_factory.mktemp("mooncake")))

    def start(number: int) -> SGLangServer:
        config = folder / f"radixkv{number}.yaml"
        # A busy machine is not a dead server.
        url = f"{store.url}{'&' if '?' in store.url else '?'}timeout=10s"
        document = {
            "chunk_tokens": 16,
            "memory": {"size": "64MiB"},
            "remotes": [url],
            "prefetch": {"deadline": "5s"},
        }
        config.write_text(json.dumps(document))
        return SGLangServer(
            ServerConfig(
                model=models[ATTENTION],
                log=folder / f"server{number}.log",
                cache="radixkv",
                radixkv_config=config,
                environment=environment,
            )
        )

    with ThreadPoolExecutor(2) as threads:  # a server dies with the thread that started it
        first, second = threads.map(start, range(2))
        with first, second:
            for server in (first, second):
                wait_until_shared(server)
            yield [first, second]


def wait_until_shared(server: SGLangServer) -> None:
    """On a busy machine the first connection may take a while; what is stored before stays here."""
    deadline = time.monotonic() + 60.0
    while ": serves" not in server.config.log.read_text(errors="replace"):
        assert time.monotonic() < deadline, server.log_tail()
        time.sleep(0.05)


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
    num_computed = [server.prefilled_tokens.total() for server in servers]
    assert num_computed[1] < num_computed[0] / 4, counters(second)
    assert counters(second)["gets_failed"] == counters(second)["loads_failed"] == 0


def test_answers_stay_right_and_nothing_waits_whatever_happens_to_what_they_share(
    servers: list[SGLangServer],
    prompts: list[Prompt],
    store: Store,
    wire: Wire | None,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    first, second = servers
    rest = prompts[NUM_PROMPTS:]
    ask(first, rest[:8])
    for server in servers:
        server.longest_call = ("", 0.0)
    if wire is not None:
        wire.change(delay_s=0.05, loss=0.05, small_packets=True)
        ask(second, rest[:8])
        wire.change()
    store.stop()
    ask(second, rest[8:12])
    store.kill()
    ask(second, rest[12:16])

    store.start()

    ask(first, rest[16:])
    ask(second, rest[16:])
    assert counters(second)["loads_failed"] == 0
    longest = max((server.longest_call for server in servers), key=lambda call: call[1])
    record_property("longest_call", longest)
    is_soak = request.node.get_closest_marker("soak") is not None
    assert longest[1] <= (CALL_LIMIT_S if is_soak else NO_WAIT_S), longest[0]
