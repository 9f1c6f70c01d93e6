"""Which chunks are written to a remote server, and when."""

from __future__ import annotations

import numpy as np
from remote_script import FAILED, Script
from test_planner import CHUNK, identity_slots, prompt

from radixkv.commands import Put, Store


def tokens_of(puts: list[Put]) -> list[int]:
    return [token for put in puts for token in put.tokens.tolist()]


def test_what_few_requests_had_is_not_written():
    script = Script(write="seen:3")
    system = prompt(1, 2)
    asked = [np.concatenate([system, prompt(seed, 1)]) for seed in (2, 3, 4, 2, 2)]

    assert script.request(asked[0]) == []
    assert script.request(asked[1]) == []
    assert tokens_of(script.request(asked[2])) == system.tolist()
    assert script.request(asked[3]) == []
    assert tokens_of(script.request(asked[4])) == asked[4][len(system) :].tolist()


def test_a_request_that_stores_in_parts_has_a_chunk_once():
    script = Script(write="seen:2")
    tokens = prompt(1, 4)
    time = script.planner.new_admission()
    for end in (1, 2, 3, 4):
        store = script.planner.store(tokens[: end * CHUNK], identity_slots, time=time)
        script.commands(Store)
        script.end(store, 1)

    assert script.commands() == []
    assert tokens_of(script.request(tokens)) == tokens.tolist()


def test_what_has_left_memory_and_comes_again_is_seen_for_the_first_time():
    script = Script(write="seen:2", memory_chunks=4)
    script.request(prompt(1, 4))
    script.request(prompt(2, 4))

    assert script.request(prompt(1, 4)) == []
    assert tokens_of(script.request(prompt(1, 4))) == prompt(1, 4).tolist()


def test_what_rests_is_written_before_memory_is_full_oldest_first_but_for_what_is_used():
    script = Script(write="evict", memory_chunks=32)
    written = [script.request(prompt(seed, 4)) for seed in range(7)]
    assert written == [[]] * 7

    script.request(prompt(0, 4))
    puts = script.request(prompt(7, 2))

    assert tokens_of(puts) == prompt(1, 4).tolist()
    for put in puts:
        script.end(put, len(put.chunks))
    script.planner.index.check_invariants()


def test_what_rests_stays_where_the_server_takes_nothing():
    script = Script(write="evict", memory_chunks=32)
    for seed in range(7):
        script.request(prompt(seed, 4))
    puts = script.request(prompt(7, 2))
    script.end(puts[0], 0, FAILED)

    assert script.request(prompt(8, 1)) == []
    script.pass_time(0.6)
    assert tokens_of(script.request(prompt(9, 1))) == prompt(1, 4).tolist()
