"""SGLang's own radix cache on the tiny models: the ground that the other tests stand on.

If one of these fails, the stand-ins, the models or the harness are wrong, not radixkv.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang_harness import ServerConfig, SGLangServer
from sglang_models import VOCAB_SIZE

SERVERS = [
    pytest.param("0.5.23", "mha", 1, False),
    pytest.param("0.5.18", "mla", 16, True),
    *(
        pytest.param(version, *leg, marks=pytest.mark.soak)
        for version in ("0.5.15", "0.5.18", "0.5.20", "0.5.21", "0.5.22", "0.5.23")
        for leg in (("mha", 1, False), ("mla", 16, True))
        if (version, leg[0]) not in [("0.5.18", "mla"), ("0.5.23", "mha")]
    ),
]

pytestmark = pytest.mark.parametrize(
    ("version", "attention", "page_size", "overlap"), SERVERS, scope="module"
)

Prompts = list[list[int]]


@pytest.fixture(scope="module")
def server(
    version: str,
    attention: str,
    page_size: int,
    overlap: bool,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SGLangServer]:
    config = ServerConfig(
        engine=f"sglang-{version}",
        model=models[attention],
        log=tmp_path_factory.mktemp("stock") / "server.log",
        page_size=page_size,
        overlap=overlap,
    )
    with SGLangServer(config) as running:
        yield running


@pytest.fixture
def prompts(request: pytest.FixtureRequest) -> Prompts:
    """Eight prompts of 300 tokens that share no prefix with each other."""
    rng = random.Random(request.node.name)
    firsts = rng.sample(range(3, VOCAB_SIZE), 8)
    return [[first, *rng.choices(range(3, VOCAB_SIZE), k=299)] for first in firsts]


def test_cached_prompt_gives_the_same_tokens(server: SGLangServer, prompts: Prompts) -> None:
    server.flush_cache()
    computed = server.generate(prompts)
    cached = server.generate(prompts)

    page = server.config.page_size
    assert [g.cached_tokens for g in computed] == [0] * 8
    assert [g.device_tokens for g in cached] == [299 // page * page] * 8
    assert [g.output_ids for g in cached] == [g.output_ids for g in computed]


def test_one_changed_token_far_back_changes_what_follows(
    server: SGLangServer, prompts: Prompts
) -> None:
    changed = [[*prompt[:100], 3 + prompt[100] % 1000, *prompt[101:]] for prompt in prompts]

    before = server.generate(prompts)
    after = server.generate(changed)

    pairs = zip(before, after, strict=True)
    assert sum(a.output_ids != b.output_ids for a, b in pairs) >= 5


def test_probe_counts_what_the_forward_computed(server: SGLangServer, prompts: Prompts) -> None:
    answers = server.generate(prompts) + server.generate(prompts)
    server.wait_until_idle()

    for answer in answers:
        computed = answer.prompt_tokens - answer.cached_tokens
        assert server.prefilled_tokens[answer.rid] == computed
    assert server.cache_calls["match_prefix"] >= len(answers)
    kept = ("cache_finished_req", "insert_req", "checkpoint")  # one for each generation
    assert sum(server.cache_calls[call] for call in kept) >= len(answers)


def test_every_slot_is_free_or_evictable_when_idle(server: SGLangServer, prompts: Prompts) -> None:
    server.generate(prompts)
    (state,) = server.wait_until_idle()

    assert state["evictable_slots"] > 0
    assert state["protected_slots"] == 0
    assert state["available_slots"] + state["evictable_slots"] == state["total_slots"]


def test_settings_reach_the_scheduler(server: SGLangServer) -> None:
    (state,) = server.wait_until_idle()

    assert state["page_size"] == server.config.page_size
    assert state["overlap"] == server.config.overlap
    assert not state["uses_amx_kernels"]


def test_flush_empties_the_device(server: SGLangServer, prompts: Prompts) -> None:
    server.generate(prompts)
    server.wait_until_idle()

    server.flush_cache()

    (state,) = server.wait_until_idle()
    assert state["available_slots"] == state["total_slots"]
    assert [g.cached_tokens for g in server.generate(prompts)] == [0] * 8
