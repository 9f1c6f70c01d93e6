"""Checks of the disk tier: the folder, room, O_DIRECT, io_uring and how much it may register."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import shutil
from pathlib import Path

from radixkv.cli.checks import Check, fail, ok, warn
from radixkv.config import CacheConfig
from radixkv.errors import TierError
from radixkv.tiers.disk import inspect_folder
from radixkv.units import approximate_size

_SYS_IO_URING_SETUP = 425  # the same number on every architecture
_IO_URING_PARAMS_BYTES = 120
_CAP_IPC_LOCK = 14
_BLOCK_BYTES = 4096


def check_disk(config: CacheConfig) -> list[Check]:
    """Everything that the disk tier rests on; a single line where there is none."""
    if config.disk_path is None:
        return [_check_no_disk(config), _check_io_uring(config)]
    folder = _nearest_folder(config.disk_path)
    return [
        _check_folder(config.disk_path, folder),
        *_check_files(config, config.disk_path),
        _check_room(config, folder),
        _check_direct_io(folder),
        _check_io_uring(config),
        _check_memory_lock(config),
    ]


def _check_no_disk(config: CacheConfig) -> Check:
    if config.disk_size_bytes == CacheConfig().disk_size_bytes:
        return ok("disk tier", "none (disk.path is not set)")
    return warn(
        "disk tier", "none: disk.size is set, disk.path is not", "name a folder in disk.path"
    )


def _nearest_folder(path: Path) -> Path:
    """The folder itself or, where it is still to be made, the nearest one above it."""
    path = path.absolute()
    while not os.path.isdir(path):  # unlike Path.is_dir, also where a look is not allowed
        path = path.parent
    return path


def _check_folder(wanted: Path, existing: Path) -> Check:
    wanted = wanted.absolute()
    obstacle = next((path for path in (wanted, *wanted.parents) if os.path.exists(path)), existing)
    if obstacle != existing:
        return fail("disk folder", f"{obstacle} is not a folder", "choose another disk.path")
    if existing not in (wanted, wanted.parent):
        finding = f"the folder above {wanted} does not exist"
        return fail("disk folder", finding, "create it, or choose another disk.path")
    if not os.access(existing, os.W_OK | os.X_OK):
        advice = f"choose another disk.path, or give this user the right to write to {existing}"
        return fail("disk folder", f"{existing} is not writable", advice)
    note = "" if wanted.is_dir() else ", made at first use"
    return ok("disk folder", f"{wanted}{note}")


def _check_files(config: CacheConfig, folder: Path) -> list[Check]:
    """What is there already; nothing before the first use."""
    if not any(folder.glob("rank*.radixkv")):
        return []
    try:
        files = inspect_folder(folder)
    except TierError as error:
        return [fail("disk files", error.reason, "name another disk.path")]
    written, user = files[0].chunk_tokens, files[0].locked_by()
    if written != config.chunk_tokens:
        finding = f"written with chunk_tokens {written}, which is {config.chunk_tokens} now"
        return [fail("disk files", finding, "set it back, or name another disk.path")]
    if user is not None:
        advice = "end it before another engine starts with this disk.path"
        return [warn("disk files", f"in use by process {user}", advice)]
    return [ok("disk files", f"{sum(len(file.chunks) for file in files)} chunks found")]


def _check_room(config: CacheConfig, folder: Path) -> Check:
    assert config.disk_path is not None
    files = config.disk_path.rglob("*") if os.path.isdir(config.disk_path) else ()
    ours = sum(file.stat().st_blocks * 512 for file in files if file.is_file())
    room = shutil.disk_usage(folder).free + ours
    finding = f"{approximate_size(config.disk_size_bytes)} wanted, {approximate_size(room)} there"
    if config.disk_size_bytes > room:
        return fail("disk room", finding, "make disk.size smaller, or free space")
    return ok("disk room", finding)


def _check_direct_io(folder: Path) -> Check:
    """Writes and reads one block of a file that has no name and is gone when it is closed."""
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_DIRECT, 0o600)
    except OSError as error:
        return _no_direct_io(folder, error)
    try:
        with mmap.mmap(-1, _BLOCK_BYTES) as block:  # aligned to a page, as O_DIRECT wants it
            os.pwritev(fd, [block], 0)
            os.preadv(fd, [block], 0)
    except OSError as error:
        return _no_direct_io(folder, error)
    finally:
        os.close(fd)
    return ok("O_DIRECT", f"works in {folder}")


def _no_direct_io(folder: Path, error: OSError) -> Check:
    finding = f"refused in {folder} ({error.strerror}): what is read and written is cached twice"
    if error.errno in (errno.EACCES, errno.EPERM):
        return warn("O_DIRECT", finding, f"give this user the right to write to {folder}")
    return warn("O_DIRECT", finding, "put disk.path on a local ext4 or xfs file system")


def _check_io_uring(config: CacheConfig) -> Check:
    if config.disk_io == "threads":
        return ok("io_uring", "not asked for (disk.io: threads)")
    error = io_uring_error()
    if not error:
        return ok("io_uring", "works")
    advice = "in a container allow the io_uring calls; else sysctl kernel.io_uring_disabled=0"
    return warn("io_uring", f"refused ({error}): threads do the work", advice)


def io_uring_error() -> str:
    """What the kernel says when a ring of four entries is set up; empty where it works."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    fd = libc.syscall(_SYS_IO_URING_SETUP, 4, params)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return ""


def _check_memory_lock(config: CacheConfig) -> Check:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or _may_lock_anything():
        return ok("memory lock limit", "none")
    finding = (
        f"{approximate_size(limit)}, memory.size is {approximate_size(config.memory_size_bytes)}"
    )
    if limit >= config.memory_size_bytes or config.disk_io == "threads":
        return ok("memory lock limit", finding)
    advice = (
        "ulimit -l unlimited (docker run --ulimit memlock=-1), so that io_uring may register it"
    )
    return warn("memory lock limit", finding, advice)


def _may_lock_anything() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False
