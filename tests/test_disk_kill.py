"""A process killed while it spills: what it acknowledged is there, and all there is is right."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spill_until_killed as victim
from dataplane import fetch, load

from radixkv.commands import CompletionStatus

NUM_KILLS = 13  # of each kind: 52 in all


def run_and_kill(folder, first_round, io_engine, durable, num_lines):
    """Lines that the victim said: about `num_lines`, however far it came before the signal."""
    command = [sys.executable, victim.__file__, folder, str(first_round), io_engine, durable]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(num_lines)]
        process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9, "it died of something else"
    return [line.split() for line in lines if line.endswith("\n")]


class Expected:
    """What must be in the file, from what the victim said: {path: round}."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, int] = {}
        self.last_round = 0

    def hear(self, lines):
        for word, path, round_number in lines:
            if word == "begin":
                self.acknowledged.pop(int(path), None)  # from here on anything goes
                self.last_round = int(round_number)
            else:
                self.acknowledged[int(path)] = int(round_number)


def found_rounds(restored):
    """{path: (round, number of chunks)} of a restored tier."""
    starts = np.concatenate([[0], np.cumsum(restored.num_tokens)[:-1]]).astype(int)
    roots = {}
    root_of = []
    for index, parent in enumerate(restored.parent_index):
        root = index if parent < 0 else root_of[parent]
        root_of.append(root)
        path, round_number = restored.tokens[starts[root] : starts[root] + 2]
        _, count = roots.get(int(path), (0, 0))
        roots[int(path)] = (int(round_number), count + 1)
    return roots


def check_bytes(executor, engine, found):
    """Everything that was found can be fetched and is what its tokens say."""
    for path, (round_number, count) in found.items():
        chunks = victim.chunks_of(executor, path, round_number)[:count]
        num_tokens = count * victim.CHUNK_TOKENS
        wanted = engine.token_bytes(victim.slots_of(path, round_number)[:num_tokens])
        assert fetch(executor, chunks).status == CompletionStatus.OK

        target = victim.make_engine()
        target.poison()
        executor.attach(target.memory())
        load(executor, chunks, np.arange(num_tokens))
        assert target.token_bytes(np.arange(num_tokens)) == wanted


@pytest.mark.long
@pytest.mark.parametrize("durable", ["group", "none"])
@pytest.mark.parametrize("io_engine", ["auto", "threads"])
def test_killed_at_any_moment_it_keeps_what_it_acknowledged(tmp_path: Path, io_engine, durable):
    chance = random.Random(f"{io_engine} {durable}")
    expected = Expected()
    engine = victim.make_engine()
    for _ in range(NUM_KILLS):
        num_lines = chance.randrange(1, 120)
        lines = run_and_kill(tmp_path, expected.last_round, io_engine, durable, num_lines)
        expected.hear(lines)

        with victim.open_tier(tmp_path, io_engine, durable) as executor:
            found = found_rounds(executor.restored)
            check_bytes(executor, engine, found)

        for path, round_number in expected.acknowledged.items():
            assert found[path] == (round_number, victim.PATH_CHUNKS)
        assert expected.acknowledged or num_lines < 12
