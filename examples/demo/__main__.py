"""Runs the same prompts through an engine alone and through the engine with radixkv, and compares.

    make demo                    SmolLM2-135M answers questions about Python's manual
    make demo ENGINE=vllm        vLLM in place of SGLang
    make demo MODEL=random       a tiny random model: nothing to download, nothing to read
    make demo TRACE=PATH         replays recorded prompts (JSON lines with `input` texts), the
                                 first 12 of them or REQUESTS=…

The device is given too little room on purpose (as a GPU with many users has): what does not fit
there the engine computes again, and radixkv brings back from memory and disk. In the end the server
is started anew, and finds on disk what the first one left there.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import report
from .engines import ENGINES, Answer, Engine, Room
from .errors import DemoError
from .model import Model, is_prepared, prepare_model
from .report import console, section
from .server import Server
from .trace import Request, Trace, read_requests
from .workload import Conversation, Ids, Workload, count_distinct_tokens

CACHE = Path(__file__).resolve().parents[2] / ".cache"
MAX_NEW_TOKENS = 32
TURNS_AFTER_RESTART = 4

# Room on the device and in memory, as shares of all distinct tokens of the prompts.
DEVICE_SHARE = 0.4
MEMORY_SHARE = 0.85


def plan(model: Model, workload: Workload) -> Room:
    """Sizes the tiers so that the prompts overflow the device, and memory overflows to disk."""
    prompts = [workload.prompt(turn, {}) for turn in range(len(workload.titles))]
    distinct = count_distinct_tokens(prompts) + MAX_NEW_TOKENS * len(prompts)
    longest = max(len(prompt) for prompt in prompts) + 8 * MAX_NEW_TOKENS
    device_tokens = max(longest, round(distinct * DEVICE_SHARE))
    memory_bytes = max(longest, round(distinct * MEMORY_SHARE)) * model.kv_bytes_per_token
    disk_bytes = 2 * distinct * model.kv_bytes_per_token
    folder = CACHE / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mib = 1 << 20
    room = Room(device_tokens, max(memory_bytes, 8 * mib), max(disk_bytes, 64 * mib), folder)
    console.print(
        f"{len(prompts)} prompts with {distinct:,} distinct tokens "
        f"({distinct * model.kv_bytes_per_token / mib:,.0f} MiB of KV). Room for "
        f"{device_tokens:,} tokens on the device, {room.memory_bytes / mib:,.0f} MiB in memory, "
        f"{room.disk_bytes / mib:,.0f} MiB on disk."
    )
    if device_tokens > distinct * (1 + DEVICE_SHARE) / 2:
        console.print(
            "That is room for most of them at once on the device, so until the restart little has "
            "to be brought back; more prompts (REQUESTS=…) need more."
        )
    return room


def converse(server: Server, model: Model, workload: Workload) -> tuple[list[Ids], list[Answer]]:
    """Goes through all turns; gives the prompts as they were sent, and the answers."""
    prompts: list[Ids] = []
    answers: list[Answer] = []
    end_of_turn = model.config["eos_token_id"]
    said: dict[int, Ids] = {}
    for turn, title in enumerate(workload.titles):
        report.show_turn(turn + 1, len(workload.titles), title)
        prompts.append(workload.prompt(turn, said))
        answer = server.ask(prompts[turn], MAX_NEW_TOKENS)
        answers.append(answer)
        said[turn] = [token for token in answer.ids if token != end_of_turn]
        report.show_answer("" if model.name == "random" else model.decode(answer.ids), answer)
    return prompts, answers


def repeat(server: Server, prompts: Sequence[Ids], titles: Sequence[str]) -> list[Answer]:
    """Sends prompts that were sent before."""
    answers: list[Answer] = []
    for number, (prompt, title) in enumerate(zip(prompts, titles, strict=True), 1):
        report.show_turn(number, len(prompts), title)
        answers.append(server.ask(prompt, MAX_NEW_TOKENS))
        report.show_answer("", answers[-1])
    return answers


def open_trace(requests: list[Request], model: Model, max_requests: int) -> Trace:
    trace = Trace(requests, model, max_requests=max_requests, reserve_tokens=MAX_NEW_TOKENS)
    console.print(
        f"The first {len(trace.titles)} of {len(requests)} recorded requests. Cut at the end, so "
        f"that they fit into the model's {model.context_length:,} tokens with an answer: "
        f"{trace.num_cut} of them, by {trace.num_tokens_cut:,} tokens in all."
    )
    return trace


def run(engine: Engine, model_name: str, trace: Path | None, max_requests: int) -> bool:
    """The whole demo; true if every answer was the same with radixkv as without."""
    requests = None if trace is None else read_requests(trace)
    section(f"Model: {model_name}")
    if not is_prepared(model_name, CACHE / "models"):
        console.print("downloading and converting it, once (89 MB; with MODEL=random nothing)")
    model = prepare_model(model_name, CACHE / "models")
    workload: Workload = Conversation(model)
    if requests is not None:
        workload = open_trace(requests, model, max_requests)
    room = plan(model, workload)

    def serve(name: str, *, with_radixkv: bool) -> Server:
        log = room.folder / f"{name}.log"
        return Server(engine, model, room, log, with_radixkv=with_radixkv)

    section(f"{engine.name} alone")
    with serve("alone", with_radixkv=False) as server:
        prompts, alone = converse(server, model, workload)

    section(f"{engine.name} with {engine.all_it_takes}, the same prompts")
    with serve("radixkv", with_radixkv=True) as server:
        cached = repeat(server, prompts, workload.titles)

    section("The same server, started again: the device and memory are empty, the disk is not")
    again = slice(-TURNS_AFTER_RESTART, None)
    with serve("restarted", with_radixkv=True) as server:
        restarted = repeat(server, prompts[again], workload.titles[again])

    report.show_comparison(workload.titles, alone, cached, "Without and with radixkv")
    report.show_comparison(workload.titles[again], alone[again], restarted, "After the restart")
    shutil.rmtree(room.disk_folder, ignore_errors=True)
    differ = report.show_differences(
        [*workload.titles, *workload.titles[again]],
        [*alone, *alone[again]],
        [*cached, *restarted],
    )
    return not differ


def count(text: str) -> int:
    """An argument's value."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def main() -> int:
    about = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser("python -m examples.demo", description=about)
    parser.add_argument("--engine", choices=ENGINES, default="sglang")
    parser.add_argument("--model", choices=["smollm2", "random"], default="smollm2")
    parser.add_argument("--trace", type=Path, help="JSON lines with `input` texts, or a folder")
    parser.add_argument(
        "--requests", type=count, default=12, help="how many of a trace to replay (12)"
    )
    arguments = parser.parse_args()
    engine = ENGINES[arguments.engine]
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers end with the demo
    try:
        same = run(engine, arguments.model, arguments.trace, arguments.requests)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    report.show_gpu_lines(engine)
    console.print(f"\nDone in {time.monotonic() - started:.0f} s.", style="dim")
    if not same:
        print("demo: some answers differ from those without radixkv", file=sys.stderr)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
