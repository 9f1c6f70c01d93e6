#!/usr/bin/env python3
"""Makes the pinned environments in which real engines run on a machine without a GPU.

    python3 tests/engines/setup.py sglang-0.5.23

creates `.venvs/sglang-0.5.23` from `tests/engines/sglang-0.5.23.txt`, and installs radixkv and, for
SGLang, the CPU stand-ins (`tests/sglang_cpu`) into it from this checkout. Run it again at any time:
what is up to date is left alone (under a second), a changed list makes the environment anew, a
changed source file builds and installs this repository's wheels again (CMake rebuilds only what
changed).

It needs Python 3.11 with venv and pip, what `.ci/bootstrap` installs to compile radixkv, and a way
to the packages that pip is configured with.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LISTS = Path(__file__).resolve().parent
VENVS = REPOSITORY / ".venvs"
CACHE = REPOSITORY / ".cache"
TORCH = "torch==2.13.0"

# What goes into this repository's two wheels, and so into the stamp of an environment.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "csrc", "radixkv", "sglang_ext", "vllm_ext")
STAND_INS = REPOSITORY / "tests" / "sglang_cpu"
BUILD_OUTPUTS = {".so", ".pyc"}


class SetupError(Exception):
    """An environment cannot be made; the text says what failed and what to do."""


def say(text: str) -> None:
    print(f"[engines] {text}", flush=True)


def run(step: str, *command: str | Path) -> None:
    """Runs one installation step; its output is shown only when it fails."""
    started = time.monotonic()
    argv = [str(word) for word in command]
    done = subprocess.run(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace").strip().splitlines()
        tail = "\n    ".join(output[-30:])
        raise SetupError(f"{step}: `{' '.join(argv)}` exited {done.returncode}:\n    {tail}")
    say(f"{step}: {time.monotonic() - started:.1f} s")


def interpreter() -> str:
    """The lists are pinned for Python 3.11: the one below this one, or another on the path."""
    if sys.version_info[:2] == (3, 11):
        return f"{sys.base_prefix}/bin/python3.11"
    found = shutil.which("python3.11")
    if found is None:
        raise SetupError(f"the lists are pinned for Python 3.11, this is {sys.version}")
    return found


def requirement_files(path: Path) -> list[Path]:
    """The list and every list that it includes with -r."""
    files = [path]
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            files += requirement_files(path.parent / line[3:].strip())
    return files


def digest(files: Iterable[Path]) -> str:
    """One hash over names and contents, so that a rename counts as a change."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(str(file.relative_to(REPOSITORY)).encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def source_files() -> Iterator[Path]:
    for root in (*(REPOSITORY / name for name in SOURCES), STAND_INS):
        for file in [root] if root.is_file() else root.rglob("*"):
            if file.is_file() and file.suffix not in BUILD_OUTPUTS:
                yield file


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two runs that start together must not build into the same folders."""
    VENVS.mkdir(exist_ok=True)
    with (VENVS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Environment:
    """One virtual environment with a stamp for each thing that was installed into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = VENVS / name
        self.python = self.path / "bin" / "python"

    def has(self, stamp: str, value: str) -> bool:
        file = self.path / f".{stamp}"
        return file.is_file() and file.read_text() == value

    def set(self, stamp: str, value: str) -> None:
        (self.path / f".{stamp}").write_text(value)

    def create(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        run(f"{self.name}: new environment", interpreter(), "-m", "venv", self.path)


def build_environment() -> Environment:
    """The environment with the build backend and uv; engines are not in it."""
    environment = Environment("build")
    wanted = LISTS / "build.txt"
    stamp = digest([wanted])
    if not environment.has("requirements", stamp):
        environment.create()
        run("build: tools", environment.python, "-m", "pip", "install", "--quiet", "-r", wanted)
        environment.set("requirements", stamp)
    return environment


def install(build: Environment, target: Environment, step: str, *what: str | Path) -> None:
    """Installs exactly what is named, without dependencies.

    uv links files from one cache into every environment, so a second engine costs little disk.
    """
    uv = build.path / "bin" / "uv"
    options = ("--quiet", "--no-deps", "--cache-dir", CACHE / "uv", "--python", target.python)
    run(f"{target.name}: {step}", uv, "pip", "install", *options, *what)


def torch_wheel(build: Environment) -> Path:
    """Fetches torch with pip, which knows where this machine has its CPU build; uv does not."""
    folder = CACHE / "wheels" / "torch"
    found = sorted(folder.glob("torch-*.whl"))
    if not found:
        options = ("--quiet", "--no-deps", "--dest", folder)
        run("torch: download", build.python, "-m", "pip", "download", *options, TORCH)
        found = sorted(folder.glob("torch-*.whl"))
    if len(found) != 1:
        raise SetupError(f"{folder}: expected one torch wheel, got {[f.name for f in found]}")
    return found[0]


def make_engine(build: Environment, environment: Environment) -> None:
    """Makes the environment anew with torch and the engine's pinned list."""
    wanted = LISTS / f"{environment.name}.txt"
    stamp = digest(requirement_files(wanted)) + TORCH
    if environment.has("requirements", stamp):
        return
    say(f"{environment.name}: installing (1.5 GB; about a minute, more where downloads are slow)")
    environment.create()
    install(build, environment, "engine", "-r", wanted)
    install(build, environment, "torch", torch_wheel(build))
    check = "import torch; torch.zeros(1); assert torch.version.cuda is None, torch.__version__"
    try:
        run(f"{environment.name}: torch works", environment.python, "-c", check)
    except SetupError as error:
        raise SetupError(
            f"{error}\n{environment.name} needs the CPU build of {TORCH}. Let pip find it (its "
            f"find-links or extra-index-url setting), remove {CACHE / 'wheels' / 'torch'} and run "
            "this again."
        ) from error
    environment.set("requirements", stamp)


def build_wheels(build: Environment, sources: str) -> list[Path]:
    """Builds radixkv and the CPU stand-ins once for all environments."""
    folder = CACHE / "wheels" / "radixkv"
    if not (folder / "sources").is_file() or (folder / "sources").read_text() != sources:
        shutil.rmtree(folder, ignore_errors=True)
        # CMake caches by interpreter: what `make build` compiled is used where it is there.
        developer = Environment("dev")
        compiler = developer if (developer.path / ".ready").is_file() else build
        for name, where, source in (
            ("radixkv", compiler, REPOSITORY),
            ("radixkv-sglang-cpu", build, STAND_INS),
        ):
            # CMake and Ninja come from the environment: nothing but a compiler is asked for.
            path = f"PATH={where.path / 'bin'}{os.pathsep}{os.environ['PATH']}"
            pip = ("env", path, where.python, "-m", "pip", "wheel", "--quiet")
            options = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder)
            run(f"{name}: wheel", *pip, *options, source)
        (folder / "sources").write_text(sources)
    return sorted(folder.glob("*.whl"))


def install_project(build: Environment, environment: Environment) -> None:
    sources = digest(source_files())
    if environment.has("project", sources):
        return
    wheels = build_wheels(build, sources)
    if not environment.name.startswith("sglang"):
        wheels = [wheel for wheel in wheels if "sglang" not in wheel.name]
    install(build, environment, "radixkv from this checkout", "--reinstall", *wheels)
    environment.set("project", sources)


def names() -> list[str]:
    return sorted(file.stem for file in LISTS.glob("*-*.*.txt"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes pinned engine environments in .venvs/")
    parser.add_argument("engine", nargs="+", choices=names(), metavar="ENGINE", help=str(names()))
    arguments = parser.parse_args()
    try:
        with one_at_a_time():
            build = build_environment()
            for name in arguments.engine:
                environment = Environment(name)
                make_engine(build, environment)
                install_project(build, environment)
                say(f"{environment.path.relative_to(REPOSITORY)} is ready")
    except SetupError as error:
        print(f"[engines] {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
