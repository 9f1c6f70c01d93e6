"""Requests that come when they like, meet each other's prefixes half computed, and are aborted.

A batch in step, as the other workloads send them, leaves out what depends on timing: a prefix that
one request loads while another computes it, a store that still reads what a finished request has
let go, a request that is aborted while its KV is on the way. The KV itself is compared, for answers
would hide small errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prompts import MAX_NEW_TOKENS, Prompt, Workload
from sglang_harness import Generation, ServerError, SGLangServer
from workload_run import check_claims, check_kv, check_nothing_is_held, starved_server

NUM_USERS = 10
NUM_HOT = 14  # prompts that all users ask for at a time
SWITCH_S = 4.0  # so often there are other ones

# Version, attention, page size, overlap schedule, seconds, and what disturbs, if it is not
# "calm": "faults" delay and fail radixkv's transfers at random, an "operator" pauses, flushes and
# aborts everything.
LEGS = [
    ("0.5.18", "mha", 1, True, 12.0, "calm"),
    *(
        pytest.param(version, attention, page_size, overlap, 60.0, trouble, marks=pytest.mark.soak)
        for version in ("0.5.18", "0.5.23")
        for attention in ("mha", "mla")
        for page_size in (1, 16)
        for overlap in (False, True)
        for trouble in ("calm", "faults")
    ),
    *(
        pytest.param(version, "mha", 16, True, 60.0, "operator", marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.18", "0.5.20", "0.5.21", "0.5.22", "0.5.23")
    ),
]
pytestmark = pytest.mark.parametrize(
    ("version", "attention", "page_size", "overlap", "duration_s", "trouble"), LEGS, scope="module"
)


class Users:
    """Ask one server, each on a thread of its own, until the time is over."""

    def __init__(self, server: SGLangServer, workload: Workload, duration_s: float) -> None:
        self.answered: list[tuple[Prompt, Generation]] = []
        self.num_aborted = 0
        self.errors: list[Exception] = []
        self._server = server
        self._prompts = workload.prompts
        self._started = time.monotonic()
        self._until = self._started + duration_s

    def ask_all(self) -> None:
        threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(NUM_USERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < self._until:
                self._ask(rng)
        except Exception as error:
            self.errors.append(error)

    def _ask(self, rng: random.Random) -> None:
        era = int((time.monotonic() - self._started) / SWITCH_S)
        prompt = rng.choice(random.Random(era).sample(self._prompts, NUM_HOT))
        length = rng.choice([len(prompt.ids), rng.randrange(40, len(prompt.ids))])
        (answer,) = self._server.generate_each(
            [prompt.ids[:length]],
            rng.randrange(1, MAX_NEW_TOKENS + 1),
            abort_after_s=rng.uniform(0.0, 0.3) if rng.random() < 0.1 else None,
        )
        if answer.finish_reason["type"] == "abort":
            self.num_aborted += 1
        elif length == len(prompt.ids):
            self.answered.append((prompt, answer))


class Operator:
    """Meddles with a server, on a thread of its own, until the users are done."""

    def __init__(self, server: SGLangServer) -> None:
        self.num_times = 0
        self.error: Exception | None = None
        self._server = server
        self._done = threading.Event()
        self._rng = random.Random(3)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._done.wait(self._rng.uniform(0.1, 1.2)):
                self._rng.choice([self._abort, self._flush, self._pause])()
                self.num_times += 1
        except Exception as error:
            self.error = error

    def _abort(self) -> None:
        self._server.call("POST", "/abort_request", {"abort_all": True})

    def _flush(self) -> None:
        with contextlib.suppress(ServerError):  # refused while anything runs
            self._server.flush_cache()

    def _pause(self) -> None:
        mode = self._rng.choice(["in_place", "retract"])
        self._server.call("POST", "/pause_generation", {"mode": mode})
        if mode == "retract":
            self._flush()  # with requests that wait, from 0.5.21 on
        self._server.call("POST", "/continue_generation", {})


@pytest.fixture(scope="module")
def users(
    version: str,
    attention: str,
    page_size: int,
    overlap: bool,
    duration_s: float,
    trouble: str,
    models: dict[str, Path],
    workload_for: Callable[[str], Workload],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Users, dict[str, object]]:
    """Those who asked, and the server's state when all was over."""
    folder = tmp_path_factory.mktemp("coming")
    workload = workload_for(attention)
    config = starved_server(
        folder,
        models,
        workload,
        attention,
        page_size,
        overlap,
        memory_share=3,
        prefetch_deadline="20ms" if trouble == "faults" else "2s",
    )
    faults = {"RADIXKV_TEST_FAULTS": "0:7"} if trouble == "faults" else {}
    environment = {**config.environment, **faults}
    config = dataclasses.replace(config, engine=f"sglang-{version}", environment=environment)
    with SGLangServer(config) as server, contextlib.ExitStack() as stack:
        asked = Users(server, workload, duration_s)
        operator = stack.enter_context(Operator(server)) if trouble == "operator" else None
        asked.ask_all()
        stack.close()
        if operator is not None:
            assert operator.error is None
            assert operator.num_times > 10
            server.generate([workload.prompts[0].ids])  # memory may be empty now
        (state,) = server.wait_until_idle()
    return asked, state


def test_every_row_of_kv_is_that_of_a_run_without_cache(users: tuple[Users, dict]) -> None:
    check_kv(users[1])


def test_no_store_says_too_early_that_its_kv_is_computed(
    users: tuple[Users, dict], overlap: bool
) -> None:
    check_claims(users[1], overlap)


def test_every_answer_is_that_of_a_run_without_cache(users: tuple[Users, dict]) -> None:
    asked, _ = users

    assert asked.errors == []
    assert len(asked.answered) > 50
    assert asked.num_aborted > 0
    for prompt, answer in asked.answered:
        assert answer.output_ids == prompt.expected[: len(answer.output_ids)]


def test_nothing_is_held_when_all_is_over(users: tuple[Users, dict]) -> None:
    check_nothing_is_held(users[1])
