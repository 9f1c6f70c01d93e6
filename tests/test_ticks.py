"""Tick records: what one rank says, and what several ranks agree on."""

import numpy as np
import pytest

from radixkv.commands import Completion, CompletionStatus
from radixkv.ticks import WINDOW, ReplicasDivergedError, decode, encode

OK, FAILED, CORRUPT = CompletionStatus.OK, CompletionStatus.FAILED, CompletionStatus.CORRUPT


def heard(*completions: Completion) -> dict[int, Completion]:
    return {completion.command_id: completion for completion in completions}


def test_a_row_gives_back_what_was_heard():
    completions = [Completion(7, 3, OK), Completion(9, 0, FAILED), Completion(12, 65535, CORRUPT)]

    row = encode(1500, 12, [7, 8, 9, 12], heard(*completions))

    record = decode(row, [7, 8, 9, 12])
    assert record.elapsed_us == 1500
    assert record.completions == tuple(completions)


def test_a_command_ends_only_when_every_rank_has_it():
    pending = [1, 2]
    first = encode(10, 2, pending, heard(Completion(1, 4, OK), Completion(2, 4, OK)))
    second = encode(20, 2, pending, heard(Completion(2, 4, OK)))

    record = decode(np.minimum(first, second), pending)

    assert record.elapsed_us == 10
    assert record.completions == (Completion(2, 4, OK),)


@pytest.mark.parametrize("status", [FAILED, CORRUPT, CompletionStatus.FULL])
def test_one_rank_failed_then_all_failed(status):
    first = encode(0, 1, [1], heard(Completion(1, 4, OK)))
    second = encode(0, 1, [1], heard(Completion(1, 2, status)))

    record = decode(np.minimum(first, second), [1])

    assert record.completions == (Completion(1, 2, status),)


def test_the_oldest_commands_come_first_when_there_are_more_than_the_window():
    pending = list(range(1, WINDOW + 3))

    row = encode(0, len(pending), pending, heard(*(Completion(i, 1, OK) for i in pending)))

    assert [c.command_id for c in decode(row, pending).completions] == pending[:WINDOW]


def test_ranks_that_issued_different_commands_are_found_out():
    first = encode(0, 5, [5], {})
    second = encode(0, 6, [6], {})

    with pytest.raises(ReplicasDivergedError, match="between 5 and 6"):
        decode(np.minimum(first, second), [5])
