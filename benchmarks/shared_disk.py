"""Are answers from KV that another engine left on disk as good as that engine's own answers?

    python benchmarks/shared_disk.py            # on a machine with a GPU, SGLang and vLLM
    python benchmarks/shared_disk.py --sglang-python one/bin/python --vllm-python other/bin/python

SGLang and vLLM on the same weights: one computes the prompts, leaves their KV in a disk tier and
ends; the other starts on that folder and has to find each prompt there, all but two tokens.
Nothing is served from anywhere else: tokens that did not come from the disk are an error, not a
row.

    cold      the reader without radixkv           ┐ what both rows of a pair are held against
    write     the writer: its answers, and KV on disk
    read      the reader on the writer's disk
    control   the same, but loads go into slots half the device away; this must not pass

A row is the mean difference of the reader's log-probabilities on the writer's KV from its own cold
ones, over the five likeliest tokens; its baseline is the difference of the writer's answers from
them: every engine rounds in its own way, and no answer from its KV can be asked to be nearer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import engine_process
import sglang_engine
import sglang_parity
import vllm_engine
import vllm_parity
from cost_rule import fetch_always
from engine_process import Times, measure
from harness import emit, progress
from llama import LLAMA_1B, write_weights
from log_probs import ALLOWED, LogProbs, differences, draw_prompts

SHAPE = replace(LLAMA_1B, num_layers=7)  # 1.9 GB of weights
CHUNK = 64  # tokens of radixkv's, and a page of SGLang's
NUM_PROMPTS = 64
NUM_CHUNKS = 31
FOUND = NUM_CHUNKS * CHUNK  # of a prompt's tokens: all but the last two
DEVICE_TOKENS = 12 * 32 * CHUNK  # some prompts: what is misplaced lands in what was another's
MEMORY_GIB = 4
DISK_TIMEOUT_S = 120.0
LEGS = ("cold", "write", "read", "control")
MISPLACES = "RADIXKV_BENCH_SHARED_MISPLACES"

if os.environ.get(MISPLACES) and __name__ == "__mp_main__":  # SGLang's scheduler, started by spawn
    sglang_parity.misplace_loads(DEVICE_TOKENS)


class Answers(NamedTuple):
    """What an engine thinks of the first token after each prompt."""

    version: str
    log_probs: list[LogProbs]

    def save(self, file: Path) -> None:
        """Token ids are no keys that JSON could write."""
        pairs = [list(found.items()) for found in self.log_probs]
        file.write_text(json.dumps({"version": self.version, "log_probs": pairs}))

    @staticmethod
    def load(file: Path) -> Answers:
        saved = json.loads(file.read_text())
        return Answers(saved["version"], [dict(pairs) for pairs in saved["log_probs"]])


# --- in the process of an engine


def answer_in(folder: Path, engine: str, leg: str) -> Times:
    """One leg of one engine; its answers go into a file of the folder."""
    fetch_always()
    prompts = draw_prompts(NUM_PROMPTS, FOUND + 2)
    ask_all = {"sglang": ask_sglang, "vllm": ask_vllm}[engine]
    log_probs = ask_all(folder, leg, prompts)
    version = str(importlib.import_module(engine).__version__)
    Answers(version, log_probs).save(answers_file(folder, engine, leg))
    return {}


def answers_file(folder: Path, engine: str, leg: str) -> Path:
    return folder / f"{engine}-{leg}.json"


def ask_sglang(folder: Path, leg: str, prompts: list[list[int]]) -> list[LogProbs]:
    if leg == "control":
        os.environ[MISPLACES] = "1"
    setup = sglang_engine.Setup(DEVICE_TOKENS, page=CHUNK, shape=SHAPE, memory_gib=MEMORY_GIB)
    write_weights(folder, SHAPE)
    cache = "plain" if leg == "cold" else "radixkv"
    engine = sglang_engine.start(cache, folder, setup, is_made_up=False)
    bench = sglang_parity.Bench(engine, CHUNK)
    source = "storage" if leg in ("read", "control") else None
    log_probs = [bench.ask(prompt, source) for prompt in prompts]
    if leg == "write":
        await_disk(folder / "disk")
    engine.shutdown()
    return log_probs


def ask_vllm(folder: Path, leg: str, prompts: list[list[int]]) -> list[LogProbs]:
    if leg == "control":
        vllm_parity.misplace_loads(DEVICE_TOKENS)
    setup = vllm_engine.Setup(DEVICE_TOKENS, SHAPE, has_weights=True, memory_gib=MEMORY_GIB)
    engine = vllm_engine.Engine("none" if leg == "cold" else "radixkv", folder, setup)
    bench = vllm_parity.Bench(engine)
    num_found = FOUND if leg in ("read", "control") else 0
    log_probs = [bench.ask(prompt, num_found) for prompt in prompts]
    if num_found and engine.fetched_tokens != num_found * len(prompts):
        raise RuntimeError(f"not all of it came from disk: {engine.describe()}")
    if leg == "write":
        engine.settle()
        await_disk(folder / "disk")
    engine.close()
    return log_probs


def await_disk(folder: Path) -> None:
    """Until the disk has every prompt: SGLang ends its scheduler without asking what is under way.

    Raises:
        RuntimeError: It took too long.
    """
    import numpy as np

    from radixkv import inspect_ranks

    deadline = time.monotonic() + DISK_TIMEOUT_S
    num_chunks = 0
    while time.monotonic() < deadline:
        on_disk = inspect_ranks(folder, 1)
        num_chunks = 0 if on_disk is None else int(np.sum(on_disk.num_tokens == CHUNK))
        if num_chunks >= NUM_PROMPTS * NUM_CHUNKS:
            return
        time.sleep(0.5)
    raise RuntimeError(f"{NUM_PROMPTS * NUM_CHUNKS} chunks expected on disk, found {num_chunks}")


# --- in the benchmark's


class Bench:
    """Engines on one folder, one after the other.

    Args:
        folder: For the model, and the disk of one pair at a time.
        pythons: The interpreter of each engine.
    """

    def __init__(self, folder: Path, pythons: dict[str, str]) -> None:
        self._folder = folder
        self._pythons = pythons

    def run(self, writer: str, reader: str) -> bool:
        """Prints a pair's row; gives whether the reader's answers are near enough.

        Raises:
            SystemExit: An engine failed.
        """
        cold = self._answers(reader, "cold")
        disk, kept = self._folder / "disk", self._folder / "written"
        for folder in (disk, kept):
            shutil.rmtree(folder, ignore_errors=True)
        written = self._answers(writer, "write")
        shutil.copytree(disk, kept)
        read = self._answers(reader, "read")
        shutil.rmtree(disk)  # the reader has added what it computed
        kept.rename(disk)
        control = self._answers(reader, "control")
        own = _mean(cold, written)
        found, wrong = _mean(cold, read), _mean(cold, control)
        emit(
            f"parity.shared.{writer}_to_{reader}_difference",
            [found],
            "nats",
            baseline=("the writer's answers", [own]),
            allowed=round(ALLOWED * own, 5),
            control=round(wrong, 3),
            prompts=NUM_PROMPTS,
            tokens=FOUND,
            **{writer: written.version, reader: read.version},
        )
        is_as_good = found <= ALLOWED * own < wrong
        progress(f"  off: {found:.5f}, the writer itself {own:.5f}, the control {wrong:.3f}")
        return is_as_good

    def _answers(self, engine: str, leg: str) -> Answers:
        folder, python = self._folder, self._pythons[engine]
        measure(f"{engine}-{leg}", "--folder", str(folder), python=python)
        return Answers.load(answers_file(folder, engine, leg))


def _mean(truth: Answers, seen: Answers) -> float:
    return statistics.fmean(differences(truth.log_probs, seen.log_probs))


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="radixkv-bench-") as folder:
        yield Path(folder)


def main() -> None:
    engines = ("sglang", "vllm")
    both = [f"{writer}:{reader}" for writer in engines for reader in engines]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    legs = [f"{engine}-{leg}" for engine in engines for leg in LEGS]
    parser.add_argument("--only", choices=legs, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="for model and disk, kept (a temporary one)")
    parser.add_argument(
        "--pairs", nargs="+", choices=both, default=both[1:3], help="who writes, and who reads"
    )
    for engine in engines:
        parser.add_argument(
            f"--{engine}-python", default=sys.executable, help=f"interpreter that has {engine}"
        )
    options = parser.parse_args()
    if options.only:
        engine, leg = options.only.split("-")
        engine_process.run_alone(lambda _: answer_in(options.folder, engine, leg))
        return
    pythons = {engine: getattr(options, f"{engine}_python") for engine in engines}
    with _folder(options.folder) as folder:
        bench = Bench(folder, pythons)
        verdicts = {pair: bench.run(*pair.split(":")) for pair in options.pairs}
    bad = [pair for pair, is_as_good in verdicts.items() if not is_as_good]
    sys.exit(f"too far off, or the control is not: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
