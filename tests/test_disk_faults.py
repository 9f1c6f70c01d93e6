"""A disk that is full, read-only, gone, taken or of another kind: an error, or a counted miss."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dataplane import FakeEngine, chunk, fetch, load, path_of_chunks, slots_from, spill, store

from radixkv.commands import CompletionStatus, Fetch
from radixkv.errors import TierError, TierFormatError, TierLockedError
from radixkv.executor import Executor
from radixkv.layout import KVLayout
from radixkv.tiers.disk import DiskOptions, inspect_folder

LAYOUT = KVLayout(2, 2, 64, "uint8")
CAPACITY = 4 << 20
IO_ENGINES = ("auto", "threads")


def open_tier(folder, *, layout=LAYOUT, chunk_tokens=64, capacity_bytes=CAPACITY, **options):
    disk = DiskOptions(folder, capacity_bytes, **({"sync_interval_s": 0} | options))
    executor = Executor(
        layout, chunk_tokens=chunk_tokens, memory_bytes=1 << 20, disk=disk, pin=False
    )
    executor.attach(FakeEngine(layout, 1024).memory())
    return executor


@pytest.fixture
def small_device(tmp_path):
    """A file system of 8 MiB."""
    folder = tmp_path / "device"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting needs privileges that this machine does not give")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def files_of_at_most(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_device_without_room_is_an_error_at_start(small_device):
    with pytest.raises(TierError, match=r"9437184 bytes wanted, 83\d+ free") as caught:
        open_tier(small_device / "kv", capacity_bytes=9 << 20)

    assert str(small_device / "kv") in caught.value.reason
    assert not list((small_device / "kv").glob("*.radixkv*"))


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_a_device_that_fills_up_later_is_full(small_device, io_engine):
    with open_tier(small_device / "kv", io_engine=io_engine) as executor:
        chunks = path_of_chunks(executor, [0, 1, 2])
        store(executor, chunks, slots_from(0, 192))
        assert spill(executor, chunks[:1]).num_ok == 1
        # What was preallocated goes to somebody else, all but the headers and the first chunk.
        path = small_device / "kv" / "rank0.radixkv"
        hole = (1 << 20) + int(chunks["num_units"][0]) * executor.unit_bytes
        subprocess.run(
            ["fallocate", "-p", "-o", str(hole), "-l", str(CAPACITY), str(path)], check=True
        )
        with open(small_device / "other", "wb") as other, contextlib.suppress(OSError):
            while True:
                other.write(bytes(1 << 16))
                other.flush()

        completion = spill(executor, chunks[1:], sequence=2)

        assert completion.num_ok == 0
        assert completion.status == CompletionStatus.FULL
        assert executor.stats().spill.num_full == 1
        assert fetch(executor, chunks[:1]).num_ok == 1
        (small_device / "other").unlink()
        assert spill(executor, chunks[1:], sequence=4).num_ok == 2


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_a_file_size_limit_counts_as_full(tmp_path, io_engine):
    with open_tier(tmp_path, io_engine=io_engine) as executor:
        chunks = chunk(executor, 0)
        store(executor, chunks, slots_from(0, 64))
        with files_of_at_most(1 << 19):
            completion = spill(executor, chunks)

        assert completion.status == CompletionStatus.FULL
        assert spill(executor, chunks).num_ok == 1


def test_a_read_only_folder_is_an_error_that_says_so(small_device):
    subprocess.run(["mount", "-o", "remount,ro", str(small_device)], check=True)

    with pytest.raises(TierError, match="Read-only file system.*must be writable"):
        open_tier(small_device)


def test_a_missing_folder_is_made_but_not_the_one_above(tmp_path):
    open_tier(tmp_path / "new").close()

    with pytest.raises(TierError, match="the folder above .* does not exist"):
        open_tier(tmp_path / "missing" / "kv")


def test_a_file_in_the_folders_place_is_an_error_that_says_so(tmp_path):
    (tmp_path / "kv").write_text("")

    with pytest.raises(TierError, match="wanted; change disk.path"):
        open_tier(tmp_path / "kv")


def test_a_folder_in_use_names_the_process(tmp_path):
    with open_tier(tmp_path):
        with pytest.raises(TierLockedError, match=f"used by process {os.getpid()}:"):
            open_tier(tmp_path)
        open_tier(tmp_path, rank=1, world_size=2).close()

    open_tier(tmp_path).close()


def test_who_looks_whether_a_folder_is_used_keeps_nobody_out(tmp_path):
    open_tier(tmp_path).close()
    with (tmp_path / "rank0.lock").open() as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_SH)  # what `locked_by` does for a moment
        opening = pool.submit(open_tier, tmp_path)
        with pytest.raises(TimeoutError):
            opening.result(0.05)

        fcntl.flock(lock, fcntl.LOCK_UN)

        opening.result().close()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"layout": KVLayout(2, 2, 64, "float32")}, "another KV layout"),
        ({"layout": KVLayout(64, 2, 64, "uint8")}, "unit bytes 4096 instead of 32768"),
        ({"chunk_tokens": 32}, "chunk_tokens 64 instead of 32: "),
        ({"capacity_bytes": 2 * CAPACITY}, "another disk.size .* units [0-9]+ instead of"),
        ({"world_size": 2}, "world size 1 instead of 2"),
        ({"group_id": bytes(16)}, "another group of ranks"),
    ],
)
def test_another_kind_of_file_is_refused_by_name(tmp_path, changed, problem):
    open_tier(tmp_path).close()

    with pytest.raises(TierFormatError, match=f"{problem}.*delete the file to begin anew"):
        open_tier(tmp_path, **changed)


@pytest.mark.parametrize(("offset", "problem"), [(8, "damaged"), (0, "not a radixkv file")])
def test_a_damaged_first_block_is_refused(tmp_path, offset, problem):
    open_tier(tmp_path).close()
    path = tmp_path / "rank0.radixkv"
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff")

    with pytest.raises(TierFormatError, match=problem):
        open_tier(tmp_path)
    with pytest.raises(TierFormatError, match=problem):
        inspect_folder(tmp_path)


def test_a_group_id_is_kept(tmp_path):
    group_id = bytes(range(16))
    with open_tier(tmp_path, group_id=group_id) as executor:
        assert executor.restored.group_id == group_id

    with open_tier(tmp_path) as executor:
        assert executor.restored.group_id == group_id


def test_a_file_left_behind_half_made_is_made_again(tmp_path):
    (tmp_path / "rank0.radixkv.new").write_bytes(b"half")

    open_tier(tmp_path).close()

    assert [file.name for file in sorted(tmp_path.iterdir())] == ["rank0.lock", "rank0.radixkv"]


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_a_deleted_file_acknowledges_nothing_more(tmp_path, io_engine):
    with open_tier(tmp_path, io_engine=io_engine) as executor:
        chunks = path_of_chunks(executor, [0, 1])
        store(executor, chunks, slots_from(0, 128))
        (tmp_path / "rank0.radixkv").unlink()

        completion = spill(executor, chunks)

        assert completion.num_ok == 0
        assert completion.status == CompletionStatus.FAILED
        assert executor.stats().spill.num_failed == 1
    with open_tier(tmp_path) as executor:
        assert len(executor.restored) == 0


@pytest.mark.parametrize("io_engine", IO_ENGINES)
@pytest.mark.parametrize("kept", [0, 4096, (1 << 20) + 5000])
def test_a_file_cut_short_gives_failures_and_no_crash(tmp_path, io_engine, kept):
    with open_tier(tmp_path, io_engine=io_engine) as executor:
        chunks = path_of_chunks(executor, [0, 1])
        store(executor, chunks, slots_from(0, 128))
        spill(executor, chunks)
        os.truncate(tmp_path / "rank0.radixkv", kept)

        fetched = fetch(executor, chunks)
        loaded = load(executor, chunks[:1], slots_from(0, 64))
        spilled = spill(executor, chunks, sequence=3)

        assert fetched.num_ok == 0
        assert fetched.status == CompletionStatus.FAILED
        assert loaded.num_ok == 0
        assert spilled.num_ok == 0


@pytest.mark.parametrize("io_engine", IO_ENGINES)
def test_why_a_disk_fails_is_told_once_a_minute(tmp_path, io_engine, caplog):
    caplog.set_level(logging.WARNING, "radixkv")
    with open_tier(tmp_path, io_engine=io_engine) as executor:
        chunks = chunk(executor, 0)
        store(executor, chunks, slots_from(0, 64))
        with files_of_at_most(1 << 19):
            spill(executor, chunks)
            spill(executor, chunks, sequence=2)
        path = executor.disk_file
        assert caplog.messages == [f"disk {path}: writing failed (File too large)"]

        os.unlink(path)
        spill(executor, chunks, sequence=3)

    assert caplog.messages[1:] == [f"disk {path}: the file was removed or cut short"]


def test_chunks_beyond_the_end_of_a_file_are_dropped_and_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with open_tier(tmp_path) as executor:
        chunks = path_of_chunks(executor, [0, 1, 2])
        store(executor, chunks, slots_from(0, 192))
        spill(executor, chunks)
        extent = int(chunks["num_units"][0]) * executor.unit_bytes
        size = os.path.getsize(executor.disk_file)
        first = size - executor.disk_units * executor.unit_bytes
    os.truncate(tmp_path / "rank0.radixkv", first + 2 * extent - 1)
    assert inspect_folder(tmp_path)[0].chunks.dropped["cut"] == 2

    with open_tier(tmp_path) as executor:
        assert len(executor.restored) == 1
        assert executor.restored.dropped["cut"] == 2
        assert "dropped: {'cut': 2}" in caplog.text
        assert os.path.getsize(executor.disk_file) == size
        assert fetch(executor, chunks[:1]).num_ok == 1


def test_a_cut_file_wants_only_what_it_lost(small_device):
    """Of 8 MiB the file has 7; what it lost is all that has to be free."""
    with open_tier(small_device / "kv", capacity_bytes=7 << 20) as executor:
        path = executor.disk_file
    os.truncate(path, (7 << 20) - (1 << 16))

    with open_tier(small_device / "kv", capacity_bytes=7 << 20) as executor:
        assert executor.restored is not None


def test_why_is_not_asked_of_a_disk_that_is_closed(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "radixkv")
    with open_tier(tmp_path) as executor:
        executor.inject_fault(Fetch, fail=True)
        executor.submit(Fetch(1, chunk(executor, 0)))

    (completion,) = executor.poll()

    assert completion.status == CompletionStatus.FAILED
    assert caplog.messages == []


NO_URING = """
import ctypes, struct, sys

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

# Load the call's number; io_uring_setup (425) gives EPERM, all else passes.
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = Program(len(code), ctypes.cast(instructions, ctypes.c_void_p).value)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(program)) == 0

import logging
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
sys.path.insert(0, sys.argv[2])
from test_disk_faults import open_tier
with open_tier(sys.argv[1]) as executor:
    print(executor.io_engine)
"""


def test_threads_take_over_where_io_uring_is_forbidden(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NO_URING, tmp_path, Path(__file__).parent],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "threads"
    assert "threads (io_uring with registered buffers: " in done.stdout


def test_what_was_chosen_is_logged(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    with open_tier(tmp_path, io_engine="threads") as executor:
        assert executor.io_engine == "threads"

    assert "MiB" in caplog.text or "GiB" in caplog.text
    assert f"made {tmp_path}/rank0.radixkv" in caplog.text
    assert "not pinned: not asked for" in caplog.text
