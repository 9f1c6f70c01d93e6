"""How long until the first token when another host's KV comes over a network, and is that chosen?

    PYTHONPATH=examples .venvs/sglang-0.5.18/bin/python benchmarks/two_hosts.py     # as root

A real SGLang on the CPU answers prompts that another one has computed, which share a Redis at the
far end of a wire, and prompts that nobody has. A load that costs more than computing should not be
begun: at 10 Gbit/s all should be loaded, at the slow rate none, but for the first, from which the
rate is learnt. The packets pass through a process of ours, so on few cores the wire is slower than
it should be: `wire_gbps` is what it carries.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from demo.engines import Room, SGLang
from demo.model import Model, prepare_model
from demo.server import Server, free_port
from harness import emit, progress
from wire import Wire, why_not

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 7
NUM_TO_LEARN = 2  # prompts from which a host learns how fast it computes, and how fast KV comes
DELAY_S = 0.0005  # each way
RATES = {"10 Gbit/s": 10e9 / 8, "5 Mbit/s": 5e6 / 8}


class SharingSGLang(SGLang):
    """With radixkv in memory, and a Redis."""

    def __init__(self, remote: str) -> None:
        self._remote = remote

    def command(self, model: Model, room: Room, port: int, *, with_radixkv: bool) -> list[str]:
        words = super().command(model, room, port, with_radixkv=False)
        config = room.folder / f"radixkv{port}.yaml"
        config.write_text(
            json.dumps({"memory": {"size": f"{room.memory_bytes}B"}, "remotes": [self._remote]})
        )
        return [*words, "--radix-cache-backend", "radixkv", "--radixkv-config", str(config)]


@contextmanager
def far_redis(wire: Wire) -> Iterator[str]:
    """One at the far end; gives its URL."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", wire.far_address, "--save", ""]
    command = wire.at_far_end([*words, "--protected-mode", "no"])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if b"Ready to accept connections" in line:
                    break
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"redis://{wire.far_address}:{port}?timeout=10s"
        finally:
            process.kill()


_SOURCE = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as listener:
    print("ready", flush=True)
    listener.accept()[0].sendall(bytes(1 << 28))
"""


def measure_wire(wire: Wire) -> float:
    """What it carries, in GB/s, without anything of ours."""
    port = free_port()
    command = [sys.executable, "-c", _SOURCE, wire.far_address, str(port)]
    with subprocess.Popen(wire.at_far_end(command), stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        source.stdout.readline()
        num_bytes, deadline = 0, time.perf_counter() + 1.0
        with socket.create_connection((wire.far_address, port)) as here:
            begun = time.perf_counter()
            while time.perf_counter() < deadline and (data := here.recv(1 << 22)):
                num_bytes += len(data)
            rate = num_bytes / (time.perf_counter() - begun) / 1e9
        source.kill()
    return rate


class TwoHosts:
    """What the first has computed, the second is asked for."""

    def __init__(
        self, model: Model, num_tokens: int, folder: Path, wire: Wire, remote: str
    ) -> None:
        self._model, self._num_tokens, self._folder, self._wire = model, num_tokens, folder, wire
        self._engine = SharingSGLang(remote)
        self._random = random.Random(1)

    def prompt(self) -> list[int]:
        return [self._random.randrange(3, 250) for _ in range(self._num_tokens)]

    def server(self, name: str) -> Server:
        room = Room(4 * self._num_tokens, 1 << 30, 0, self._folder)
        log = self._folder / f"{name}.log"
        return Server(self._engine, self._model, room, log, with_radixkv=True)

    def run(self) -> None:
        known = {rate: [self.prompt() for _ in range(NUM_TO_LEARN + ROUNDS)] for rate in RATES}
        self._wire.change()
        with self.server("first") as first:
            for prompts in known.values():
                for prompt in prompts:
                    first.ask(prompt, 1)
            time.sleep(2)  # what is stored is being written
        for rate, prompts in known.items():
            progress(rate)
            with self.server(rate.replace("/", " in a ")) as second:
                self._wire.change(bytes_per_s=RATES[rate], delay_s=DELAY_S)
                self._measure(rate, second, prompts)
                self._wire.change()

    def _measure(self, rate: str, second: Server, prompts: list[list[int]]) -> None:
        wire_gbps = measure_wire(self._wire)
        times: dict[str, list[float]] = {"known": [], "unknown": []}
        learning_ms, num_loaded = [], 0
        for number, prompt in enumerate(prompts):
            unknown = second.ask(self.prompt(), 1)
            answer = second.ask(prompt, 1)
            loaded = answer.disk_tokens
            progress(
                f"  {answer.first_token_s * 1e3:.0f} ms with {loaded} tokens loaded, "
                f"{unknown.first_token_s * 1e3:.0f} ms with none"
            )
            assert unknown.disk_tokens == 0
            if number < NUM_TO_LEARN:
                learning_ms.append(round(answer.first_token_s * 1e3, 1))
                continue
            num_loaded += loaded > 0
            times["known"].append(answer.first_token_s * 1e3)
            times["unknown"].append(unknown.first_token_s * 1e3)
        facts = {"wire": f"{rate}, 1 ms", "wire_gbps": round(wire_gbps, 4)}
        facts |= {"model": self._model.name, "tokens": self._num_tokens}
        facts |= {"sglang": metadata.version("sglang")}
        emit(
            "two_hosts.known_to_the_other_ms",
            times["known"],
            "ms",
            baseline=("computed", times["unknown"]),
            loaded_of_rounds=[num_loaded, ROUNDS],
            while_learning_ms=learning_ms,
            **facts,
        )
        emit("two_hosts.computed_ms", times["unknown"], "ms", **facts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="random", help="random, or smollm2, which is downloaded")
    parser.add_argument("--tokens", type=int, default=3000)
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        progress(f"{reason}: nothing to measure")
        return
    model = prepare_model(options.model, REPOSITORY / ".cache" / "models")
    with (
        tempfile.TemporaryDirectory() as folder,
        Wire() as wire,
        far_redis(wire) as remote,
    ):
        TwoHosts(model, options.tokens, Path(folder), wire, remote).run()


if __name__ == "__main__":
    main()
