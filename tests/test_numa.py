"""The node that a process is bound to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from radixkv import numa


def write_nodes(folder: Path, monkeypatch: pytest.MonkeyPatch, *cpulists: str) -> None:
    for number, cpulist in enumerate(cpulists):
        (folder / f"node{number}").mkdir()
        (folder / f"node{number}" / "cpulist").write_text(f"{cpulist}\n")
    monkeypatch.setattr(numa, "NODES", folder)


@pytest.mark.parametrize(
    ("cpulists", "allowed", "node"),
    [
        (("0-3", "4-7"), {5, 6}, 1),
        (("0-1,4-5", "2-3,6-7"), {0, 5}, 0),
        (("0-3", "4-7"), {3, 4}, -1),  # bound to neither
        (("0-7",), {5}, -1),  # nothing to choose
        (("0-3", "4-7", ""), {4}, 1),  # a node with memory alone
    ],
)
def test_the_node_that_holds_all_allowed_cpus(tmp_path, monkeypatch, cpulists, allowed, node):
    write_nodes(tmp_path, monkeypatch, *cpulists)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)

    assert numa.local_node() == node


def test_this_host_has_an_answer():
    assert numa.local_node() >= -1
