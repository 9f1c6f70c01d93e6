"""What the control plane does about remote servers, driven by values alone."""

from __future__ import annotations

import numpy as np
import pytest
from remote_script import ABSENT, CHUNK_BYTES, FAILED, FULL, OK, Script
from test_planner import CHUNK, LAYOUT, identity_slots, prompt

from radixkv.commands import Completion, CompletionStatus, Fetch, Get, Lookup, Put
from radixkv.ticks import Rates, TickRecord


def test_what_a_server_has_is_brought_in_prefix_order_and_counts_when_it_is_there():
    script = Script()
    tokens = prompt(1, 4, rest=3)

    prefetch = script.planner.prefetch(tokens)
    [lookup] = script.commands(Lookup)
    assert lookup.tokens.tolist() == tokens.tolist()
    script.end(lookup, 3 * CHUNK)
    [get] = script.commands(Get)
    assert get.tokens.tolist() == tokens[: 3 * CHUNK].tolist()
    assert get.chunks["span"].tolist() == [0, 1, 2]
    assert script.planner.match(tokens).num_tokens == 0
    assert not prefetch.done
    script.end(get, 3)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == 3 * CHUNK
    assert script.planner.end_prefetch(prefetch) == 3 * CHUNK
    script.planner.index.check_invariants()


def test_keys_go_on_from_what_is_kept_here():
    script = Script()
    tokens = prompt(1, 4)
    script.planner.prefetch(tokens)
    [root] = script.commands(Lookup)
    script.end(root, 0)
    script.keep(tokens[: 2 * CHUNK])
    [put] = script.commands(Put)

    script.planner.prefetch(tokens)
    [lookup] = script.commands(Lookup)

    assert put.parent_key == root.parent_key != lookup.parent_key
    assert lookup.tokens.tolist() == tokens[2 * CHUNK :].tolist()


def test_nobody_is_asked_about_a_few_tokens():
    script = Script()
    script.keep(prompt(1, 2))

    assert script.planner.prefetch(prompt(1, 2)) is None
    assert script.planner.prefetch(prompt(2, 0, rest=CHUNK // 4 - 1)) is None
    assert script.planner.prefetch(prompt(2, 0, rest=CHUNK // 4)) is not None


def test_a_part_of_a_chunk_is_brought_as_a_chunk_of_its_own():
    script = Script()
    tokens = prompt(1, 4)
    prefetch = script.ask(tokens, CHUNK + 5)
    [get] = script.commands(Get)
    assert get.chunks["num_tokens"].tolist() == [CHUNK, 5]

    script.end(get, 2)

    assert prefetch.handle.num_memory_tokens == CHUNK + 5


def test_what_a_server_has_no_further_than_is_kept_is_not_brought():
    script = Script()
    script.keep(prompt(1, 1, rest=10))
    script.commands(Put)
    longer = np.concatenate([prompt(1, 1, rest=10), prompt(2, 3)])

    prefetch = script.ask(longer, 10)

    assert prefetch.done
    assert script.commands() == []


def test_nobody_is_asked_about_what_is_computed_sooner():
    script = Script()
    script.planner_rates = Rates(compute_tokens_per_s=1_000_000)
    script.pass_time(0.001)

    assert script.planner.prefetch(prompt(1, 4)) is None
    assert script.planner.prefetch(prompt(1, 400)) is not None


def test_a_server_from_which_it_takes_longer_than_computing_is_not_used_but_now_and_then():
    script = Script()
    rate = 10 * LAYOUT.token_bytes
    script.planner_rates = Rates(compute_tokens_per_s=1000, get_bytes_per_s=rate)
    script.pass_time(0.001)
    num_gets = 0
    for seed in range(32):
        prefetch = script.ask(prompt(seed, 2), 2 * CHUNK)
        for get in script.commands(Get):
            num_gets += 1
            script.end(get, 2)
        assert prefetch.done

    assert num_gets == 2
    assert script.planner.counters.prefetches_dear == 32


def test_a_request_waits_no_longer_than_its_deadline_and_what_comes_late_is_kept():
    script = Script(prefetch={"deadline": "1s"})
    tokens = prompt(1, 2)
    prefetch = script.ask(tokens, 2 * CHUNK)
    [get] = script.commands(Get)

    script.pass_time(1.0)
    assert prefetch.done
    script.planner.end_prefetch(prefetch)
    script.end(get, 2)

    assert script.planner.counters.prefetches_late == 1
    assert script.planner.match(tokens).num_memory_tokens == 2 * CHUNK


def test_an_answer_that_comes_late_moves_nothing():
    script = Script()
    prefetch = script.planner.prefetch(prompt(1, 2))
    [lookup] = script.commands(Lookup)

    script.planner.end_prefetch(prefetch)
    script.end(lookup, 2 * CHUNK)

    assert script.commands() == []
    assert script.planner.pending_ids == []


def test_no_more_than_the_budget_is_on_its_way():
    script = Script(prefetch={"budget": f"{2 * CHUNK_BYTES}B"}, memory_chunks=512)
    prefetch = script.ask(prompt(1, 300), 300 * CHUNK)
    num_gets = 0
    while not prefetch.done:
        [get] = script.commands(Get)  # of 16 MiB at most, though the budget is less
        assert len(get.chunks) * CHUNK_BYTES <= 16 << 20
        num_gets += 1
        script.end(get, len(get.chunks))

    assert num_gets == 2
    assert prefetch.handle.num_memory_tokens == 300 * CHUNK


def test_a_memory_that_is_full_of_what_is_pinned_takes_what_fits():
    script = Script(memory_chunks=4)
    script.keep(prompt(1, 2))
    [put] = script.commands(Put)
    script.end(put, 2)
    with script.planner.acquire(prompt(1, 2)):
        prefetch = script.ask(prompt(2, 4), 4 * CHUNK)
        [get] = script.commands(Get)
        script.end(get, 2)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == 2 * CHUNK
    script.planner.index.check_invariants()


@pytest.mark.parametrize("status", [FAILED, ABSENT, CompletionStatus.CORRUPT])
def test_what_is_lost_on_its_way_is_a_miss(status):
    script = Script()
    prefetch = script.ask(prompt(1, 3), 3 * CHUNK)
    [get] = script.commands(Get)
    script.end(get, 1, status)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == CHUNK
    assert script.planner.counters.gets_failed == 2 * CHUNK
    script.planner.index.check_invariants()


def test_two_requests_wait_for_the_same_chunks_and_bring_them_once():
    script = Script()
    tokens = prompt(1, 3)
    first = script.ask(tokens, 3 * CHUNK)
    [get] = script.commands(Get)
    second = script.planner.prefetch(tokens)
    assert script.commands() == []
    assert not second.done

    script.end(get, 3)

    assert first.done
    assert second.done
    assert second.handle.num_memory_tokens == 3 * CHUNK


def test_the_server_that_has_most_is_used():
    script = Script(num_remotes=3)
    tokens = prompt(1, 4)
    script.planner.prefetch(tokens)
    lookups = script.commands(Lookup)
    assert [lookup.remote for lookup in lookups] == [0, 1, 2]

    found = [CHUNK, 3 * CHUNK, 2 * CHUNK]
    completions = (Completion(lookups[i].command_id, found[i], OK) for i in range(3))
    script.planner.apply(TickRecord(1000, tuple(completions)))

    [get] = script.commands(Get)
    assert (get.remote, len(get.chunks)) == (1, 3)


def test_a_server_that_fails_is_not_asked_for_a_while_longer_each_time():
    script = Script(num_remotes=2)
    script.planner.prefetch(prompt(1, 2))
    first, second = script.commands(Lookup)
    script.end(first, 0, FAILED)
    script.end(second, 0)

    script.planner.prefetch(prompt(2, 2))
    assert [lookup.remote for lookup in script.commands(Lookup)] == [1]
    script.pass_time(0.3)
    script.planner.prefetch(prompt(3, 2))
    again = script.commands(Lookup)
    assert [lookup.remote for lookup in again] == [0, 1]
    script.end(again[0], 0, FAILED)
    script.pass_time(0.3)
    script.planner.prefetch(prompt(4, 2))
    assert [lookup.remote for lookup in script.commands(Lookup)] == [1]


def test_disk_first_and_the_rest_from_a_server():
    script = Script(disk_chunks=16)
    tokens = prompt(1, 4)
    script.keep(tokens[: 2 * CHUNK])
    for command in script.planner.take_commands():
        script.end(command, 2)
    script.planner.clear(disk=False)

    prefetch = script.planner.prefetch(tokens)
    lookup, fetch = script.commands(Lookup, Fetch)
    assert lookup.tokens.tolist() == tokens[2 * CHUNK :].tolist()
    script.end(lookup, 2 * CHUNK)
    [get] = script.commands(Get)
    script.end(fetch, 2)
    assert not prefetch.done
    script.end(get, 2)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == 4 * CHUNK


def test_what_is_stored_is_written_while_memory_has_it_and_stays_till_then():
    script = Script(memory_chunks=4)
    script.keep(prompt(1, 2))
    [put] = script.commands(Put)
    assert put.tokens.tolist() == prompt(1, 2).tolist()

    script.keep(prompt(2, 2))
    assert script.planner.store(prompt(3, 4), identity_slots, time=9) is None  # both are written
    script.end(put, 2)

    assert script.planner.store(prompt(3, 4), identity_slots, time=9) is not None
    assert script.planner.counters.put == 2 * CHUNK


def test_what_was_brought_is_not_written_back():
    script = Script()
    script.ask(prompt(1, 2), 2 * CHUNK)
    [get] = script.commands(Get)

    script.end(get, 2)

    assert script.commands() == []


@pytest.mark.parametrize("status", [FAILED, FULL])
def test_a_server_that_does_not_take_writes_is_spared_them_for_a_while(status):
    script = Script()
    script.keep(prompt(1, 2))
    [put] = script.commands(Put)
    script.end(put, 0, status)

    script.keep(prompt(2, 2))
    assert script.commands() == []
    script.pass_time(0.6)
    script.keep(prompt(3, 2))
    assert len(script.commands(Put)) == 1
    assert script.planner.counters.puts_failed == 2 * CHUNK
    assert script.planner.counters.puts_dropped == 2 * CHUNK


def test_no_more_than_a_part_of_memory_waits_to_be_written():
    script = Script(memory_chunks=4096)
    for seed in range(20):
        script.keep(prompt(seed, 128))  # 8 MiB each

    puts = script.planner._ledger.pending.values()
    assert sum(len(put.chunks) for put in puts) * CHUNK_BYTES == 32 << 20
    waiting = 20 * 128 - 512 - script.planner.counters.puts_dropped // CHUNK
    assert waiting * CHUNK_BYTES == 32 << 20  # an eighth
