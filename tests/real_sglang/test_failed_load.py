"""A copy out of memory that fails when its request runs already: an error, never a wrong token."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import streaming
from prompts import Ids, random_ids
from sglang_harness import (
    Generation,
    ServerConfig,
    SGLangServer,
    outputs,
    write_radixkv_config,
)
from streaming import WITHOUT_SESSIONS, StreamingSession
from workload_run import check_nothing_is_held

SHARED_TOKENS = 400
LONG_TOKENS = 700  # three chunks of prefill

SERVERS = [
    ("0.5.18", True, 1),
    ("0.5.23", True, 1),
    ("0.5.23", True, 2),
    *(
        pytest.param(*server, marks=pytest.mark.soak)
        for server in (
            ("0.5.15", True, 1),
            ("0.5.18", False, 1),
            ("0.5.18", True, 2),
            ("0.5.20", True, 1),
            ("0.5.21", True, 1),
            ("0.5.22", True, 1),
            ("0.5.23", False, 1),
        )
    ),
]
pytestmark = pytest.mark.parametrize(("version", "overlap", "num_ranks"), SERVERS, scope="module")


@pytest.fixture(scope="module")
def request_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making this file makes the next load fail."""
    return tmp_path_factory.mktemp("faults") / "fail-a-load"


@pytest.fixture(scope="module")
def server(
    version: str,
    overlap: bool,
    num_ranks: int,
    request_file: Path,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SGLangServer]:
    """A device so small that what was asked before comes from memory."""
    folder = tmp_path_factory.mktemp("failed-load")
    config = ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=folder / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(folder, memory_bytes=32 << 20),
        overlap=overlap,
        tp_size=num_ranks,
        device_tokens=2600,
        options=() if version in WITHOUT_SESSIONS else (streaming.OPTION,),
        environment={
            "RADIXKV_TEST_FAIL_LOAD": str(request_file),
            "SGLANG_CPU_OMP_THREADS_BIND": "|".join("01"[:num_ranks]),
        },
    )
    with SGLangServer(config) as running:
        yield running


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


def push_out_of_the_device(server: SGLangServer, rng: random.Random) -> None:
    server.wait_until_idle()
    server.generate([random_ids(rng, 600) for _ in range(6)])
    server.wait_until_idle()


def ask_while_a_load_fails(
    server: SGLangServer, request_file: Path, prompts: list[Ids], max_new_tokens: int = 8
) -> list[Generation]:
    """Sends them together; checks that a load failed and that nothing is held when all is over."""
    failed_before = server.wait_until_idle()[0]["radixkv"]["counters"]["loads_failed"]
    request_file.touch()
    answers = server.generate_each(prompts, max_new_tokens)
    states = server.wait_until_idle()

    assert not request_file.exists(), "no load began"
    for state in states:
        assert state["radixkv"]["counters"]["loads_failed"] > failed_before
        check_nothing_is_held(state)
    return answers


def assert_ended_with_an_error(answer: Generation) -> None:
    assert answer.finish_reason["type"] == "abort"
    assert answer.finish_reason["status_code"] == 500
    assert "could not be loaded; send the request again" in answer.finish_reason["message"]


def test_its_readers_end_with_an_error_and_others_are_right(
    server: SGLangServer, request_file: Path, rng: random.Random
) -> None:
    shared = random_ids(rng, SHARED_TOKENS)
    reader, sharer = ([*shared, *random_ids(rng, 30)] for _ in range(2))
    other = random_ids(rng, SHARED_TOKENS)
    (expected,) = outputs(server.generate([reader]))
    push_out_of_the_device(server, rng)
    expected_of_others = outputs(server.generate([sharer, other], extra_key="elsewhere"))

    failed, *others = ask_while_a_load_fails(server, request_file, [reader, sharer, other])
    again = server.generate([reader, sharer, other])

    assert_ended_with_an_error(failed)
    for answer, right in zip(others, expected_of_others, strict=True):
        if answer.finish_reason["type"] == "abort":
            assert_ended_with_an_error(answer)  # it read what failed, too
        else:
            assert answer.output_ids == right
    assert others[-1].finish_reason["type"] == "length"
    assert outputs(again) == [expected, *expected_of_others]


def test_what_was_computed_on_top_of_it_is_kept_nowhere(
    server: SGLangServer, request_file: Path, rng: random.Random
) -> None:
    """Its prefill goes on for two more chunks before the request ends."""
    shared = random_ids(rng, SHARED_TOKENS)
    long = [*shared, *random_ids(rng, LONG_TOKENS)]
    server.generate([shared])
    (expected,) = outputs(server.generate([long], extra_key="elsewhere"))
    push_out_of_the_device(server, rng)

    (failed,) = ask_while_a_load_fails(server, request_file, [long])
    (again,) = server.generate([long])

    assert_ended_with_an_error(failed)
    assert again.output_ids == expected
    assert 0 < again.cached_tokens <= SHARED_TOKENS


def test_a_request_of_one_token_ends_with_the_error_too(
    server: SGLangServer, request_file: Path, rng: random.Random
) -> None:
    """It is over with the very result that the load was for."""
    prompt = random_ids(rng, SHARED_TOKENS)
    (expected,) = outputs(server.generate([prompt]))
    push_out_of_the_device(server, rng)

    (failed,) = ask_while_a_load_fails(server, request_file, [prompt], max_new_tokens=1)
    (again,) = server.generate([prompt])

    assert_ended_with_an_error(failed)
    assert again.output_ids == expected


def test_sessions_begin_anew_after_it(
    server: SGLangServer, request_file: Path, rng: random.Random, version: str
) -> None:
    """Between its turns nobody can tell whether a session's KV was merged with what failed."""
    if version in WITHOUT_SESSIONS:
        pytest.skip("refused at start, see test_refusals.py")
    prompt = random_ids(rng, SHARED_TOKENS)
    server.generate([prompt])
    push_out_of_the_device(server, rng)
    session = StreamingSession(server)
    session.ask(random_ids(rng, SHARED_TOKENS))
    server.wait_until_idle()

    (failed,) = ask_while_a_load_fails(server, request_file, [prompt])
    session.ask(random_ids(rng, 30))
    going_on = session.ask(random_ids(rng, 30))
    session.close()

    assert_ended_with_an_error(failed)
    assert outputs(answer for _, answer in session.turns) == session.expected()
    assert going_on.device_tokens > SHARED_TOKENS
