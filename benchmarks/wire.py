"""A wire from this host to one of its own: rate, delay and loss, whatever the kernel has.

    with Wire() as wire:
        wire.change(bytes_per_s=1.25e9, delay_s=0.0005)  # each way
        subprocess.Popen(wire.at_far_end(["redis-server", "--bind", wire.far_address]))

        this host ── device "rkv…" ──▶ a process that holds packets back ──▶ a network namespace

Many kernels lack netem. This one needs root, /dev/net/tun and namespaces; all of it goes with the
process. Packets come as the kernel hands them over, long ones up to 64 KiB; with `small_packets`
they are cut to 1,500 bytes before, so that losing one loses as little as elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Self

CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
MAX_PACKET_BYTES = 66_000
NUM_PACKETS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Conditions:
    """What a wire does, each way.

    Attributes:
        bytes_per_s: Its rate; 0 for as fast as it goes.
        delay_s: How long a packet takes.
        loss: The share of packets that never arrive; 1 for a cut.
        queue_s: Packets that would wait longer for their turn are dropped, as a switch does.
        small_packets: Whether packets are cut to 1,500 bytes.
    """

    bytes_per_s: float = 0.0
    delay_s: float = 0.0
    loss: float = 0.0
    queue_s: float = 0.1
    small_packets: bool = False


def why_not() -> str | None:
    """Why there can be no wire here; None where there can."""
    if os.geteuid() != 0:
        return "a wire needs root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "a wire needs /dev/net/tun"
    missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
    return f"a wire needs {missing[0]} (iproute2, util-linux)" if missing else None


class Wire:
    """Lies from construction to `close`."""

    def __init__(self) -> None:
        # One of the addresses set aside for measuring networks; four for each wire.
        number = 4 * (os.getpid() % 16_000) + 4
        self.near_address = f"198.18.{number // 256}.{number % 256 + 1}"
        self.far_address = f"198.18.{number // 256}.{number % 256 + 2}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.near_address, self.far_address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self.close()
            raise OSError("the wire cannot be laid")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, **conditions: float) -> None:
        """From now on it is so; what is not named is as in `Conditions`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(conditions), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "changed\n"

    def at_far_end(self, command: Sequence[str]) -> list[str]:
        """The command that runs another at the far end."""
        return ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", *command]

    def close(self) -> None:
        """Take it away; what runs at its far end is left alone there."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class _OneWay:
    """Packets from one end to the other, in order."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self._target = target
        self._held: deque[tuple[float, bytes]] = deque()  # with the time when it arrives
        self._free_at = 0.0  # when all that was sent has left

    @property
    def next_due(self) -> float:
        return self._held[0][0] if self._held else float("inf")

    def take(self, conditions: Conditions) -> None:
        """Read what has been sent."""
        for _ in range(NUM_PACKETS_AT_ONCE):
            try:
                packet = os.read(self.source, MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            now = time.monotonic()
            begin = max(now, self._free_at)
            if begin - now > conditions.queue_s or random.random() < conditions.loss:
                continue
            if conditions.bytes_per_s:
                begin += len(packet) / conditions.bytes_per_s
                self._free_at = begin
            self._held.append((begin + conditions.delay_s, packet))

    def give(self) -> None:
        """Let arrive what is due."""
        while self._held and self._held[0][0] <= time.monotonic():
            try:
                os.write(self._target, self._held.popleft()[1])
            except OSError:
                continue  # as if it were lost


def _open_device(name: str, address: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", name.encode(), flags))
    _set_longest_packets(device, small=False)
    for words in (
        ["addr", "add", f"{address}/30", "dev", name],
        ["link", "set", name, "txqueuelen", "10000", "up"],
    ):
        subprocess.run(["ip", *words], check=True)
    return device


def _set_longest_packets(device: int, *, small: bool) -> None:
    fcntl.ioctl(device, TUNSETOFFLOAD, 0 if small else TUN_F_CSUM | TUN_F_TSO4)


def _lie_between(ends: tuple[int, int], orders: IO[str]) -> None:
    """Carry packets until nobody gives orders any more."""
    conditions = Conditions()
    near, far = ends
    ways = {near: _OneWay(near, far), far: _OneWay(far, near)}
    while True:
        pause_s = min(way.next_due for way in ways.values()) - time.monotonic()
        ready, _, _ = select.select([*ends, orders], [], [], min(max(pause_s, 0.0), 1.0))
        for end in ready:
            if end is not orders:
                ways[end].take(conditions)
                continue
            line = orders.readline()
            if not line:
                return
            conditions = Conditions(**json.loads(line))
            for device in ends:
                _set_longest_packets(device, small=conditions.small_packets)
            print("changed", flush=True)
        for way in ways.values():
            way.give()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("near_address")
    parser.add_argument("far_address")
    options = parser.parse_args()
    with contextlib.suppress(PermissionError):
        os.nice(-20)  # a wire does not share CPUs with those who talk through it
    name = f"rkv{os.getpid()}"
    near = _open_device(name, options.near_address)
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace cannot be made")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    far = _open_device("wire", options.far_address)
    print("ready", flush=True)
    _lie_between((near, far), sys.stdin)


if __name__ == "__main__":
    _main()
