"""What is remembered of what a remote server had, and what makes it forgotten."""

from __future__ import annotations

import numpy as np
from remote_script import ABSENT, FAILED, Script
from test_planner import CHUNK, LAYOUT, prompt

from radixkv.commands import Get, Lookup
from radixkv.ticks import Rates


def found_before(script: Script, tokens: np.ndarray, num_found: int) -> None:
    """A server had so much of a prompt, and memory has lost it again."""
    prefetch = script.ask(tokens, num_found)
    for get in script.commands(Get):
        script.end(get, len(get.chunks))
    script.planner.end_prefetch(prefetch)
    script.planner.clear(disk=False)


def test_what_a_server_had_is_asked_for_at_once():
    script = Script()
    found_before(script, prompt(1, 4), 3 * CHUNK)

    prefetch = script.planner.prefetch(prompt(1, 4))
    lookup, get = script.commands(Lookup, Get)
    assert get.tokens.tolist() == prompt(1, 3).tolist()
    script.end(lookup, 4 * CHUNK)  # by now it has more
    [rest] = script.commands(Get)
    script.end(get, 3)
    assert not prefetch.done
    script.end(rest, 1)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == 4 * CHUNK
    assert script.planner.prefetch(prompt(1, 4)) is None


def test_nobody_is_asked_about_what_a_server_had_whole():
    script = Script()
    found_before(script, prompt(1, 3), 3 * CHUNK)

    prefetch = script.planner.prefetch(prompt(1, 3))
    [get] = script.commands(Get)
    script.end(get, 3)

    assert prefetch.done
    assert prefetch.handle.num_memory_tokens == 3 * CHUNK


def test_a_shorter_prompt_takes_nothing_from_what_a_longer_one_had():
    script = Script()
    found_before(script, prompt(1, 4), 4 * CHUNK)
    prefetch = script.planner.prefetch(prompt(1, 2, rest=5))
    lookup, get = script.commands(Lookup, Get)
    script.end(lookup, 2 * CHUNK)
    script.end(get, 2)
    script.planner.end_prefetch(prefetch)
    script.planner.clear(disk=False)

    script.planner.prefetch(prompt(1, 4))
    [get] = script.commands(Get)
    assert len(get.chunks) == 4


def test_what_turned_out_to_be_gone_is_looked_up_again():
    script = Script()
    found_before(script, prompt(1, 4), 4 * CHUNK)
    prefetch = script.planner.prefetch(prompt(1, 4))
    [get] = script.commands(Get)
    script.end(get, 1, ABSENT)
    assert prefetch.done
    script.planner.end_prefetch(prefetch)
    script.planner.clear(disk=False)

    script.planner.prefetch(prompt(1, 4))
    lookup, get = script.commands(Lookup, Get)
    assert len(get.chunks) == 1
    script.end(lookup, 0)  # and that one is gone too
    script.end(get, 0, ABSENT)
    script.planner.prefetch(prompt(1, 4))
    [lookup] = script.commands(Lookup)


def test_of_a_server_that_failed_nothing_is_remembered():
    script = Script()
    found_before(script, prompt(1, 4), 4 * CHUNK)
    script.planner.prefetch(prompt(2, 4))
    [lookup] = script.commands(Lookup)
    script.end(lookup, 0, FAILED)
    script.pass_time(1.0)

    script.planner.prefetch(prompt(1, 4))
    [lookup] = script.commands(Lookup)


def test_what_a_server_had_is_left_there_where_computing_is_quicker():
    script = Script()
    found_before(script, prompt(1, 4), 3 * CHUNK)
    rate = 10 * LAYOUT.token_bytes
    script.planner_rates = Rates(compute_tokens_per_s=1000, get_bytes_per_s=rate)
    script.pass_time(0.001)

    prefetch = script.planner.prefetch(prompt(1, 4))
    [lookup] = script.commands(Lookup)
    script.end(lookup, 4 * CHUNK)

    assert prefetch.done
    assert script.commands() == []
