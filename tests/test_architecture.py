"""The house rules: who may import whom, what a file may look like, what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import radixkv

REPOSITORY = Path(__file__).resolve().parents[1]
ADAPTERS = ("sglang_ext", "vllm_ext")
MAX_LINES = 500

# A module may import from floors below its own, and those of the ground floor from each other.
FLOORS = (
    {
        *("_built", "errors", "units", "settings", "config", "forks"),
        *("namespace", "layout", "commands", "ticks", "group", "metrics", "numa", "host_memory"),
        *("remote_url", "counters", "pause", "ledger", "status", "subtree", "write_policy"),
    },
    {"_native"},
    {"index", "tiers", "transfer", "gpu", "chunk_file"},
    {"room", "recall", "events", "remote_hints", "subtrees"},
    {"disk_writes", "remote_reads", "remote_writes"},
    {"prefetch"},
    {"planner", "executor", "restore", "follower", "publisher"},
    {"watch", "transplant", "ticket"},
    {"cache", "replay"},
    {"cli"},
)
CPP_FLOORS = (
    {"core"},
    {"index", "memory", "transfer", "disk", "net"},
    {"exec", "cuda"},
    {"bind"},
)
ENGINES = {"torch", "sglang", "vllm", "triton"}


def source_files(*suffixes: str) -> list[Path]:
    """Every file of these kinds that is or could be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    files = (REPOSITORY / line for line in listed.stdout.splitlines())
    return sorted(file for file in files if file.suffix in suffixes and file.is_file())


def relative(file: Path) -> str:
    return str(file.relative_to(REPOSITORY))


def package_files(package: str) -> list[Path]:
    return [file for file in source_files(".py") if file.is_relative_to(REPOSITORY / package)]


def imports(file: Path) -> Iterator[str]:
    """Dotted names of what a file imports anywhere, `from a import b` as "a.b"."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(file)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(name: str, floors: tuple[set[str], ...]) -> int:
    for number, names in enumerate(floors):
        if name in names:
            return number
    raise AssertionError(f"{name}: give it a floor in tests/test_architecture.py")


@pytest.mark.parametrize("file", package_files("radixkv"), ids=relative)
def test_imports_go_one_way(file):
    own = file.relative_to(REPOSITORY / "radixkv").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    floor = floor_of(own, FLOORS)

    for name in imports(file):
        package, _, rest = name.partition(".")
        if package != "radixkv":
            assert package not in ENGINES or floor == len(FLOORS) - 1, name
            continue
        other = rest.partition(".")[0]
        is_below = floor_of(other, FLOORS) < floor
        is_neighbour = floor == floor_of(other, FLOORS) == 0
        assert other == own or is_below or is_neighbour, f"{own} imports {other}"


@pytest.mark.parametrize(
    "file", [file for adapter in ADAPTERS for file in package_files(adapter)], ids=relative
)
def test_adapters_use_public_names_only(file):
    own = relative(file).partition("/")[0]

    for name in imports(file):
        package, _, rest = name.partition(".")
        assert package not in set(ADAPTERS) - {own}, name
        assert package != "radixkv" or rest in radixkv.__all__, name


@pytest.mark.parametrize("file", source_files(".cpp", ".h", ".cu", ".cuh"), ids=relative)
def test_includes_go_one_way(file):
    parts = file.relative_to(REPOSITORY).parts
    if parts[0] != "csrc":
        return
    own = parts[1]
    floor = floor_of(own, CPP_FLOORS)

    for name in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', file.read_text(), re.MULTILINE):
        other = name.partition("/")[0]
        assert other not in ("torch", "ATen", "c10"), name
        assert other not in ("pybind11", "Python.h") or own == "bind", name
        if name.endswith(".h") and (REPOSITORY / "csrc" / other).is_dir():
            assert other == own or floor_of(other, CPP_FLOORS) < floor, f"{own} includes {name}"


@pytest.mark.parametrize(
    "file", source_files(".py", ".cpp", ".h", ".cu", ".cuh", ".sh"), ids=relative
)
def test_files_stay_short(file):
    assert len(file.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", source_files(".py", ".h", ".cuh", ".sh"), ids=relative)
def test_files_open_with_what_they_are(file):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#!")]

    assert not lines or lines[0].startswith(('"""', 'r"""', "// ", "# "))


@pytest.mark.parametrize("file", source_files(".py", ".cpp", ".h", ".md"), ids=relative)
def test_names_tell_what_not_when(file):
    words = set(re.split(r"[_\W]+", relative(file)))

    assert not words & {"v2", "new", "old", "legacy", "experimental", "misc", "utils"}


def test_the_library_needs_no_engine():
    blocked = sorted(ENGINES | {*ADAPTERS, "prometheus_client"})
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None: importing it fails
        "import radixkv\n"
        "print(*(getattr(radixkv, name) for name in radixkv.__all__))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


def test_a_checkout_that_was_not_built_says_so(tmp_path):
    for file in package_files("radixkv"):
        copy = tmp_path / relative(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())

    # -S: without what makes an editable installation's native part known.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import radixkv"], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.stderr.splitlines()[-1].startswith(f"ImportError: radixkv in {tmp_path}/radixkv")
    assert "start Python in another folder" in done.stderr


def test_public_names_are_what_is_visible():
    visible = {
        name
        for name, value in vars(radixkv).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert visible == set(radixkv.__all__)
