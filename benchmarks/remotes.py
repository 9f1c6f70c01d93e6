"""How close do remote tiers come to a plain socket, and to Mooncake's own client?

    python benchmarks/remotes.py

Chunks are those of an 8B model, 32 tokens, 4 MiB. Servers are started here. The baselines of Redis
are as many bytes from one thread to another over a socket of the same kind, in pieces of 4 MiB; the
least that a client can do with that server (`plain_client`), and for puts the fastest of some that
send everything blindly (`bound`); and LMCache's native client, where it is installed. That of
Mooncake is its own batched calls, with a process of its own that keeps the objects.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from statistics import median

import numpy as np
import redis
from harness import emit, interleave, progress
from redis_peers import FastestPuts, LMCacheClient, PlainClient, Values

from radixkv.commands import CHUNK_DTYPE, NO_EXTENT, ChunkArray, Command, Get, Lookup, Put, Store
from radixkv.errors import TierError
from radixkv.executor import Executor
from radixkv.layout import EngineMemory, KVLayout
from radixkv.remote_url import parse_remote
from radixkv.tiers.mooncake import import_store

LAYOUT = KVLayout(num_layers=32, num_kv=2, row_bytes=2048, dtype="bfloat16")
CHUNK_TOKENS = 32
NUM_CHUNKS = 32
CHUNKS_PER_COMMAND = 4
PIECE_BYTES = 4 << 20
PAYLOAD_BYTES = NUM_CHUNKS * PIECE_BYTES
ROUNDS = 9
PATIENCE_S = 60.0  # until a server that has just been started serves

SMALL_LAYOUT = KVLayout(num_layers=1, num_kv=1, row_bytes=64, dtype="uint8")
SMALL_CHUNK_TOKENS = 16
NUM_KEYS = 4096
LOOKUPS = 4

command_ids = itertools.count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Runs one; gives its URLs, TCP and unix."""
    port = free_port()
    path = folder / "redis.sock"
    words = ["redis-server", "--port", str(port), "--unixsocket", str(path), "--save", ""]
    with subprocess.Popen(
        [*words, "--bind", "127.0.0.1", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"],
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                if b"Ready to accept connections" in line:
                    break
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield f"redis://127.0.0.1:{port}", f"unix://{path}"
        finally:
            server.kill()


def make_chunks(executor: Executor, num_chunks: int) -> ChunkArray:
    """One prompt's, side by side in memory."""
    units = -(-executor.layout.token_bytes * executor.chunk_tokens // executor.unit_bytes)
    chunks = np.zeros(num_chunks, CHUNK_DTYPE)
    chunks["id"] = chunks["span"] = np.arange(num_chunks)
    chunks["generation"] = 1
    chunks["memory_offset"] = np.arange(num_chunks) * units
    chunks["disk_offset"] = chunks["parent_disk_offset"] = NO_EXTENT
    chunks["num_tokens"] = chunks["count"] = executor.chunk_tokens
    chunks["num_units"] = units
    return chunks


def run(executor: Executor, commands: Sequence[Command]) -> float:
    """Seconds from the first submit to the last completion; all went well."""
    begun = time.perf_counter()
    for command in commands:
        executor.submit(command)
    left = len(commands)
    while left:
        for completion in executor.poll():
            assert completion.status == 0, completion
            left -= 1
        if left:
            executor.wait(60)
    return time.perf_counter() - begun


@contextmanager
def stored_chunks(
    layout: KVLayout, chunk_tokens: int, num_chunks: int, url: str
) -> Iterator[tuple[Executor, ChunkArray]]:
    """An executor whose memory has these chunks, connected to the server."""
    num_tokens = num_chunks * chunk_tokens
    random = np.random.default_rng(0)
    shape = (num_tokens, layout.row_bytes)
    rows = [random.integers(0, 256, shape, np.uint8) for _ in range(layout.num_rows)]
    memory = EngineMemory(
        np.array([row.ctypes.data for row in rows], np.uint64),
        np.full(layout.num_rows, layout.row_bytes, np.int64),
        num_tokens,
        owner=rows,
    )
    memory_bytes = num_chunks * 16 * layout.unit_bytes(chunk_tokens)
    remotes = [parse_remote(url)]
    with Executor(
        layout, chunk_tokens=chunk_tokens, memory_bytes=memory_bytes, remotes=remotes
    ) as executor:
        executor.attach(memory)
        chunks = make_chunks(executor, num_chunks)
        slots = np.arange(num_tokens, dtype=np.int64)
        run(executor, [Store(next(command_ids), chunks, slots)])
        deadline = time.monotonic() + PATIENCE_S
        while not executor.remote_health()[0][0]:
            assert time.monotonic() < deadline, executor.remote_health()
            time.sleep(0.01)
        yield executor, chunks


class BulkCase:
    """Puts and gets all chunks over one kind of socket, each time under other keys.

    `make_room` empties the server; a maxmemory might drop what was put just now.
    """

    def __init__(
        self,
        executor: Executor,
        chunks: ChunkArray,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        self._make_room = make_room
        self._executor = executor
        self._chunks = np.split(chunks, len(chunks) // CHUNKS_PER_COMMAND)
        self._tokens = np.arange(CHUNKS_PER_COMMAND * CHUNK_TOKENS, dtype=np.uint32)
        self._key = bytes(16)

    def put(self) -> float:
        self._make_room()
        self._key = next(command_ids).to_bytes(16, "little")
        return self._rate(Put)

    def get(self) -> float:
        return self._rate(Get)

    def _rate(self, kind: type[Put] | type[Get]) -> float:
        commands = [
            kind(next(command_ids), 0, part, self._tokens, self._key[:15] + bytes([number]))
            for number, part in enumerate(self._chunks)
        ]
        return PAYLOAD_BYTES / run(self._executor, commands) / 1e9


def plain_socket(family: socket.AddressFamily) -> Callable[[], float]:
    source, target = np.ones(PAYLOAD_BYTES, np.uint8), np.zeros(PAYLOAD_BYTES, np.uint8)

    def send(there: socket.socket) -> None:
        for piece in np.split(source, NUM_CHUNKS):
            there.sendall(piece)

    def measure() -> float:
        ends = _tcp_pair() if family == socket.AF_INET else socket.socketpair()
        with ends[0] as there, ends[1] as here:
            for end, option in itertools.product(ends, (socket.SO_SNDBUF, socket.SO_RCVBUF)):
                end.setsockopt(socket.SOL_SOCKET, option, PIECE_BYTES)
            thread = threading.Thread(target=send, args=(there,))
            begun = time.perf_counter()
            thread.start()
            rest = memoryview(target)
            while rest:
                rest = rest[here.recv_into(rest[:PIECE_BYTES]) :]
            seconds = time.perf_counter() - begun
            thread.join()
        return PAYLOAD_BYTES / seconds / 1e9

    return measure


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        return there, listener.accept()[0]


def measure_bulk(tcp_url: str, unix_url: str) -> None:
    with (
        stored_chunks(LAYOUT, CHUNK_TOKENS, NUM_CHUNKS, tcp_url) as over_tcp,
        stored_chunks(LAYOUT, CHUNK_TOKENS, NUM_CHUNKS, unix_url) as over_unix,
    ):
        make_room = redis.Redis.from_url(tcp_url).flushall
        tcp, unix = BulkCase(*over_tcp, make_room), BulkCase(*over_unix, make_room)
        bounds = put_bounds(tcp_url, make_room)
        rates = interleave(
            {
                **redis_peers(tcp_url, make_room),
                **bounds,
                "socket": plain_socket(socket.AF_INET),
                "put": tcp.put,
                "get": tcp.get,
                "unix socket": plain_socket(socket.AF_UNIX),
                "unix put": unix.put,
                "unix get": unix.get,
            },
            ROUNDS,
        )
    bound = max(bounds, key=lambda name: median(rates[name]))
    emit(
        "redis.put_bound_gbps",
        rates[bound],
        "GB/s",
        client=bound,
        baseline=("a bare socket", rates["socket"]),
        ratio_of_best=round(max(rates[bound]) / max(rates["socket"]), 3),
        redis=version_of(tcp_url),
    )
    rates["bound put"] = rates[bound]
    for kind, name in itertools.product(("", "unix "), ("get", "put")):
        raw = rates[f"{kind}socket"]
        versions = {"redis": version_of(tcp_url)} | ({} if kind else version_of_lmcache())
        emit(
            f"redis.{kind.replace(' ', '_')}{name}_gbps",
            rates[f"{kind}{name}"],
            "GB/s",
            baseline=("a bare socket", raw),
            ratio_of_best=round(max(rates[f"{kind}{name}"]) / max(raw), 3),
            **({} if kind else beside_peers(rates, name)),
            **versions,
        )


def version_of(url: str) -> str:
    """Of a Redis server."""
    return str(redis.Redis.from_url(url).info("server")["redis_version"])


def version_of_lmcache() -> dict[str, str]:
    try:
        return {"lmcache_version": metadata.version("lmcache")}
    except metadata.PackageNotFoundError:
        return {}


def version_of_mooncake() -> str:
    for name in ("mooncake-transfer-engine", "mooncake-transfer-engine-non-cuda"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return "unknown"


def redis_peers(url: str, make_room: Callable[[], object]) -> dict[str, Callable[[], float]]:
    """How other clients put and get, in this order."""
    values = Values(NUM_CHUNKS, PIECE_BYTES, CHUNKS_PER_COMMAND)
    peers: dict[str, PlainClient | LMCacheClient] = {"plain_client": PlainClient(url, values)}
    try:
        peers["lmcache"] = LMCacheClient(url, values)
    except ImportError:
        progress("  LMCache is not installed")
    cases: dict[str, Callable[[], float]] = {}
    for name, peer in peers.items():
        cases[f"{name} put"] = in_an_empty_server(make_room, peer.put)
        cases[f"{name} get"] = peer.get
    return cases


def put_bounds(url: str, make_room: Callable[[], object]) -> dict[str, Callable[[], float]]:
    """How fast this server takes what is sent to it blindly, in some ways."""
    values = Values(NUM_CHUNKS, PIECE_BYTES, NUM_CHUNKS)
    return {
        f"{count} connections, {kib} KiB on their way": in_an_empty_server(
            make_room, FastestPuts(url, values, count, kib << 10).put
        )
        for count, kib in itertools.product((1, 2, 4), (128, 256))
    }


def in_an_empty_server(
    make_room: Callable[[], object], put: Callable[[], float]
) -> Callable[[], float]:
    def case() -> float:
        make_room()
        return put()

    return case


def beside_peers(rates: Mapping[str, Sequence[float]], act: str) -> dict[str, float]:
    """The median of each peer, and what ours is of it."""
    found = {}
    for peer in ("plain_client", "lmcache", "bound"):
        theirs = rates.get(f"{peer} {act}")
        if theirs is not None:
            found[peer] = round(median(theirs), 2)
            found[f"of_{peer}"] = round(median(rates[act]) / median(theirs), 3)
    return found


def measure_lookups(name: str, url: str) -> None:
    tokens = np.arange(NUM_KEYS * SMALL_CHUNK_TOKENS, dtype=np.uint32)
    with stored_chunks(SMALL_LAYOUT, SMALL_CHUNK_TOKENS, NUM_KEYS, url) as (executor, chunks):
        run(executor, [Put(next(command_ids), 0, chunks, tokens, bytes(16))])

        def keys_per_s() -> float:
            lookups = [Lookup(next(command_ids), 0, tokens, bytes(16)) for _ in range(LOOKUPS)]
            return LOOKUPS * NUM_KEYS / run(executor, lookups)

        rates = interleave({"lookup": keys_per_s}, ROUNDS)
        found = executor.stats().lookup.num_chunks
        assert found == (ROUNDS + 1) * LOOKUPS * len(tokens)
    emit(f"{name}.lookup_keys_per_s", rates["lookup"], "1/s", keys_per_lookup=NUM_KEYS)


_KEEPER = """
import sys, time
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 1 << 30, 1 << 24, "tcp", "", sys.argv[1]) == 0
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def mooncake_master(folder: Path) -> Iterator[str]:
    """Runs one, and a process that keeps objects; gives the master's address."""
    program = Path(import_store().__file__).parent / "mooncake_master"
    address = f"127.0.0.1:{free_port()}"
    words = [str(program), "--rpc_address=127.0.0.1", f"--rpc_port={address.split(':')[1]}"]
    words += ["--metrics_host=127.0.0.1", f"--metrics_port={free_port()}"]
    keeper = [sys.executable, "-c", _KEEPER, address]
    pipe = subprocess.PIPE
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(words, stdout=log, stderr=log) as master,
        subprocess.Popen(keeper, stdin=pipe, stdout=pipe, stderr=log) as keeping,
    ):
        try:
            assert keeping.stdout is not None
            assert keeping.stdout.readline() == b"ready\n"
            yield address
        finally:
            keeping.kill()
            master.kill()


class OwnCalls:
    """Mooncake's client without us: as many objects, of one piece each."""

    def __init__(self, address: str) -> None:
        self._store = import_store().MooncakeDistributedStore()
        words = ("127.0.0.1", "P2PHANDSHAKE", 0, 1 << 24, "tcp", "", address)
        assert self._store.setup(*words) == 0
        self._bytes = np.ones(PAYLOAD_BYTES, np.uint8)
        assert self._store.register_buffer(self._bytes.ctypes.data, PAYLOAD_BYTES) == 0
        self._names: list[str] = []

    def forget(self) -> None:
        """Lest the store fill up, and evict what is about to be read."""
        self._store.remove_all(True)

    def put(self) -> float:
        number = next(command_ids)
        self._names = [f"own {number}:{i}" for i in range(NUM_CHUNKS)]
        return self._rate(self._store.batch_put_from, 0)

    def get(self) -> float:
        return self._rate(self._store.batch_get_into, PIECE_BYTES)

    def _rate(self, call: Callable[..., list[int]], expected: int) -> float:
        begun = time.perf_counter()
        for first in range(0, NUM_CHUNKS, CHUNKS_PER_COMMAND):
            names = self._names[first : first + CHUNKS_PER_COMMAND]
            places = [
                self._bytes.ctypes.data + PIECE_BYTES * (first + i) for i in range(len(names))
            ]
            assert call(names, places, [PIECE_BYTES] * len(names)) == [expected] * len(names)
        return PAYLOAD_BYTES / (time.perf_counter() - begun) / 1e9


def measure_mooncake(address: str) -> None:
    url = f"mooncake://{address}/?timeout=10s"
    with stored_chunks(LAYOUT, CHUNK_TOKENS, NUM_CHUNKS, url) as ours:
        bulk, own = BulkCase(*ours), OwnCalls(address)

        def put() -> float:
            own.forget()
            return bulk.put()

        rates = interleave(
            {"put": put, "own put": own.put, "get": bulk.get, "own get": own.get}, ROUNDS
        )
    for name in ("get", "put"):
        emit(
            f"mooncake.{name}_gbps",
            rates[name],
            "GB/s",
            baseline=("its own batched calls", rates[f"own {name}"]),
            ratio_of_best=round(max(rates[name]) / max(rates[f"own {name}"]), 3),
            mooncake=version_of_mooncake(),
        )
    measure_lookups("mooncake", url)


def main() -> None:
    if shutil.which("redis-server") is None:
        progress("redis-server is not installed: nothing to measure")
        return
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as urls:
        progress("redis: bytes")
        measure_bulk(*urls)
        progress("redis: lookups")
        measure_lookups("redis", urls[1])
    try:
        import_store()
    except TierError as error:
        progress(str(error))
        return
    with tempfile.TemporaryDirectory() as folder, mooncake_master(Path(folder)) as address:
        progress("mooncake")
        measure_mooncake(address)


if __name__ == "__main__":
    main()
