"""What SGLang calls and touches on the cache, and what operators do to a running server."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgpack
import pytest
import streaming
import zmq
from prompts import Ids, random_ids
from sglang_harness import (
    ServerConfig,
    ServerError,
    SGLangServer,
    outputs,
    write_radixkv_config,
)
from sglang_models import LLAMA_CONFIG, llama_weights, write_llama, write_model
from streaming import WITHOUT_SESSIONS, StreamingSession
from workload_run import check_nothing_is_held

VERSIONS = [
    "0.5.18",
    "0.5.23",
    *(
        pytest.param(version, marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.20", "0.5.21", "0.5.22")
    ),
]
pytestmark = pytest.mark.parametrize("version", VERSIONS, scope="module")


@pytest.fixture(scope="module")
def server(
    version: str, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SGLangServer]:
    """A small device, so that prompts come from memory too; metrics are on, and so is sleeping
    while there is no work: every test wakes the server."""
    folder = tmp_path_factory.mktemp("surface")
    events = {"publisher": "zmq", "endpoint": f"ipc://{folder}/events"}
    options = ["--enable-metrics", "--sleep-on-idle", "--kv-events-config", json.dumps(events)]
    if version not in WITHOUT_SESSIONS:
        options.append(streaming.OPTION)
    config = ServerConfig(
        engine=f"sglang-{version}",
        model=models["mha"],
        log=folder / "server.log",
        cache="radixkv",
        radixkv_config=write_radixkv_config(folder, memory_bytes=32 << 20),
        overlap=True,
        device_tokens=1500,
        max_running_requests=2,
        forks=False,  # all of it as users have it
        options=tuple(options),
    )
    with SGLangServer(config) as running:
        yield running


@pytest.fixture
def prompts(request: pytest.FixtureRequest) -> list[Ids]:
    """Six prompts that share no prefix with each other nor with those of other tests."""
    rng = random.Random(request.node.name)
    return [random_ids(rng, 400) for _ in range(6)]


def test_every_call_that_we_live_on_arrives(
    server: SGLangServer, prompts: list[Ids], version: str
) -> None:
    server.cache_calls.clear()
    server.generate(prompts)
    server.generate(prompts)
    abort_while_queued(server, prompts)
    server.wait_until_idle()

    kept = {"0.5.21": "insert_req", "0.5.22": "checkpoint", "0.5.23": "checkpoint"}
    for call in (
        "match_prefix",
        "prefetch_from_storage",  # a request queues
        "check_prefetch_progress",  # it may be held back
        "init_load_back",  # it is admitted
        "ready_to_load_host_cache",
        "check_hicache_events",  # once a step
        kept.get(version, "cache_finished_req"),
        "release_aborted_request",
    ):
        assert server.cache_calls[call] > 0, call


def abort_while_queued(server: SGLangServer, prompts: list[Ids]) -> None:
    """Sends more requests than may run, and aborts them all at once."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.generate, prompts, 500)
        while server.probe()[0]["idle"]:
            pass
        server.call("POST", "/abort_request", {"abort_all": True})
        answers = running.result()
    assert {answer.finish_reason["type"] for answer in answers} == {"abort"}


def test_an_aborted_batch_leaves_nothing_behind(server: SGLangServer, prompts: list[Ids]) -> None:
    abort_while_queued(server, prompts)
    (state,) = server.wait_until_idle()

    check_nothing_is_held(state)
    assert outputs(server.generate(prompts)) == outputs(server.generate(prompts))


@pytest.mark.parametrize("name", ["extra_key", "cache_salt"])
def test_keys_and_salts_do_not_share(
    server: SGLangServer, prompts: list[Ids], version: str, name: str
) -> None:
    if name == "cache_salt" and version == "0.5.15":
        pytest.skip("this version of SGLang has no salt apart from the key")
    tenant = {name: "tenant"}
    plain = server.generate(prompts)
    server.wait_until_idle()

    keyed = server.generate(prompts, **tenant)
    server.wait_until_idle()
    again = server.generate(prompts, **tenant)

    assert [answer.cached_tokens for answer in keyed] == [0] * len(prompts)
    assert min(answer.cached_tokens for answer in again) > 0
    assert outputs(plain) == outputs(keyed) == outputs(again)


def test_a_streaming_session_keeps_its_kv_on_the_device(
    server: SGLangServer, prompts: list[Ids], version: str
) -> None:
    """Others push and pull prompts through memory meanwhile."""
    if version in WITHOUT_SESSIONS:
        pytest.skip("refused at start, see test_refusals.py")
    session = StreamingSession(server)
    for ids in (prompts[0], prompts[1][:50], prompts[2][:50]):
        session.ask(ids)
        server.generate(prompts[3:])
    session.close()

    (state,) = server.wait_until_idle()
    check_nothing_is_held(state)
    assert outputs(answer for _, answer in session.turns) == session.expected()
    for (asked, _), (_, answer) in itertools.pairwise(session.turns):
        assert answer.device_tokens >= len(asked)
        assert answer.host_tokens == 0


def test_flush_right_after_answers_and_during_spills(
    server: SGLangServer, prompts: list[Ids]
) -> None:
    before = server.generate(prompts)

    server.flush_cache()

    (state,) = server.wait_until_idle()
    assert state["available_slots"] == state["total_slots"]
    assert outputs(server.generate(prompts)) == outputs(before)


def test_metrics_are_served(server: SGLangServer, prompts: list[Ids]) -> None:
    server.generate(prompts)

    text = server.call("GET", "/metrics")

    assert "sglang:hicache_host_total_tokens" in text
    assert "radixkv_stored_total" in text
    assert "radixkv_memory_used_bytes" in text


def test_events_tell_what_the_device_has(server: SGLangServer, prompts: list[Ids]) -> None:
    """Routers follow them: what was loaded is announced as what was computed, and what left too."""
    blocks: set[int] = set()  # of one token each
    with zmq.Context() as context, context.socket(zmq.SUB) as events:
        events.connect(f"ipc://{server.config.log.parent}/events")
        events.subscribe(b"")
        while not events.poll(100):  # until the server knows that somebody listens
            server.flush_cache()
        computed = server.generate(prompts)
        loaded = server.generate(prompts)
        (state,) = server.wait_until_idle()
        # A busy machine may take its time; what is there already is heard in any case.
        while events.poll(0 if len(blocks) == state["evictable_slots"] else 10_000):
            follow(msgpack.unpackb(events.recv_multipart()[-1])[1], blocks)

    assert outputs(loaded) == outputs(computed)
    assert sum(answer.host_tokens for answer in loaded) > 0
    assert len(blocks) == state["evictable_slots"] > 0


def follow(events: list[Any], blocks: set[int]) -> None:
    """Takes in a batch of events: lists, from some release on maps."""
    for event in events:
        named = isinstance(event, dict)
        kind = event["type"] if named else event[0]
        if kind == "AllBlocksCleared":
            blocks.clear()
            continue
        hashes = event["block_hashes"] if named else event[1]
        if kind == "BlockStored":
            blocks.update(hashes)
        else:
            assert kind == "BlockRemoved"
            blocks.difference_update(hashes)


def test_new_weights_do_not_get_the_old_ones_kv(
    server: SGLangServer, prompts: list[Ids], models: dict[str, Path], tmp_path: Path
) -> None:
    old = server.generate(prompts)

    server.update_weights(write_llama(tmp_path / "other", seed=2))
    new = server.generate(prompts)
    server.wait_until_idle()
    new_again = server.generate(prompts)
    server.update_weights(models["mha"])
    old_again = server.generate(prompts)

    assert [answer.cached_tokens for answer in new] == [0] * len(prompts)
    assert outputs(new) != outputs(old)
    assert outputs(new_again) == outputs(new)
    assert min(answer.cached_tokens for answer in new_again) > 0
    assert outputs(old_again) == outputs(old)


def test_a_part_of_the_weights_does_not_get_the_kv_of_what_lay_below_it_before(
    server: SGLangServer, prompts: list[Ids], models: dict[str, Path], tmp_path: Path
) -> None:
    changed = llama_weights(LLAMA_CONFIG, seed=2)
    first, second = (
        write_model(
            tmp_path / layer, LLAMA_CONFIG, {k: v for k, v in changed.items() if layer in k}
        )
        for layer in ("layers.0.", "layers.1.")
    )
    server.update_weights(second)
    on_old = server.generate(prompts, extra_key="of nobody")

    for part in (first, second):
        server.update_weights(part)
    on_first = server.generate(prompts)
    for weights in (models["mha"], second):
        server.update_weights(weights)
    on_old_again = server.generate(prompts)
    server.update_weights(models["mha"])

    assert outputs(on_first) != outputs(on_old)
    assert outputs(on_old_again) == outputs(on_old)


def test_an_update_that_failed_leaves_the_kv_of_the_weights_that_were_there(
    server: SGLangServer, prompts: list[Ids], models: dict[str, Path], tmp_path: Path
) -> None:
    missing = write_llama(tmp_path / "missing", seed=4)
    (missing / "model.safetensors").unlink()
    found = []

    for weights in (write_llama(tmp_path / "other", seed=3), models["mha"]):
        server.update_weights(weights)
        with pytest.raises(ServerError, match="weights"):
            server.update_weights(missing)
        server.flush_cache()
        found.append(outputs(server.generate(prompts)))
    expected = outputs(server.generate(prompts, extra_key="of nobody"))
    server.update_weights(models["mha"])

    assert found[1] == expected != found[0]


def test_weights_that_others_wrote_do_not_get_the_old_ones_kv(
    server: SGLangServer, prompts: list[Ids], version: str
) -> None:
    if version in ("0.5.15", "0.5.18", "0.5.20"):
        pytest.skip("before 0.5.21 SGLang loads all weights itself")
    old = server.generate(prompts)
    server.wait_until_idle()
    server.flush_cache()
    on_disk = server.generate(prompts)
    server.wait_until_idle()

    assert server.call("POST", "/begin_weight_update", {})["success"]
    assert server.call("POST", "/end_weight_update", {})["success"]  # they could have, meanwhile
    server.flush_cache()
    new = server.generate(prompts)

    assert min(answer.storage_tokens for answer in on_disk) > 0
    assert [answer.cached_tokens for answer in new] == [0] * len(prompts)
    assert outputs(new) == outputs(on_disk) == outputs(old)
