"""kill -9 in the middle of writes: the next server starts, has what was on disk, and is right."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prompts import MAX_NEW_TOKENS, Prompt, Workload
from sglang_harness import (
    Generation,
    ServerConfig,
    ServerError,
    SGLangServer,
    outputs,
    write_radixkv_config,
)

# A chunk that a longer one covers but for so many tokens may go, and the last token of a prompt is
# always computed.
TAIL_SLACK = 4
NEVER_CACHED = TAIL_SLACK + 1


@pytest.mark.parametrize(
    ("version", "num_kills"),
    [
        ("0.5.23", 2),
        *(
            pytest.param(version, num_kills, marks=pytest.mark.soak)
            for version, num_kills in (
                ("0.5.15", 2),
                ("0.5.18", 20),
                ("0.5.20", 2),
                ("0.5.21", 2),
                ("0.5.22", 2),
                ("0.5.23", 20),
            )
        ),
    ],
)
def test_a_killed_server_comes_back_with_what_was_on_disk(
    version: str,
    num_kills: int,
    models: dict[str, Path],
    workload_for: Callable[[str], Workload],
    tmp_path: Path,
) -> None:
    rng = random.Random(num_kills)
    batches = list(workload_for("mha").batches())
    config = ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=tmp_path / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(tmp_path, memory_bytes=64 << 20, durable="group"),
    )
    on_disk: list[Prompt] = []

    for num_killed in range(num_kills + 1):
        with SGLangServer(config) as server:
            for answer in answer_rightly(server, on_disk):
                assert answer.cached_tokens >= answer.prompt_tokens - NEVER_CACHED
            if on_disk:
                (state,) = server.wait_until_idle()
                assert state["radixkv"]["counters"]["fetched"] > 0
            if num_killed == num_kills:
                return
            on_disk = rng.choice(batches)
            answer_rightly(server, on_disk)
            server.wait_until_idle()  # writes to disk have ended by then
            kill_while_it_works(server, rng, batches)


def answer_rightly(server: SGLangServer, prompts: list[Prompt]) -> list[Generation]:
    if not prompts:
        return []
    answers = server.generate([prompt.ids for prompt in prompts], MAX_NEW_TOKENS)
    assert outputs(answers) == [prompt.expected for prompt in prompts]
    return answers


def kill_while_it_works(
    server: SGLangServer, rng: random.Random, batches: list[list[Prompt]]
) -> None:
    killer = threading.Timer(rng.uniform(0.05, 1.0), server.kill)
    killer.start()
    with contextlib.suppress(ServerError):
        while True:
            answer_rightly(server, rng.choice(batches))
    killer.join()
