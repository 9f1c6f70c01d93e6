"""Lets `import sglang` succeed where the packages of GPU kernels are missing.

SGLang imports them at module level: to decorate kernels, to subclass, to look up names. On the CPU
none of that is ever *called* in the paths that we run, so an importer at the front of
`sys.meta_path` answers for these packages with modules whose every attribute exists and does
nothing.

A `.pth` file in the engine's environment calls `install()` when Python starts, so SGLang's spawned
processes have it too.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

PACKAGES = frozenset({"triton", "sgl_kernel", "torchvision", "torchaudio"})

# A module of SGLang 0.5.15 that needs NVIDIA's CUTLASS, on the way to the DeepSeek models. (CUTLASS
# itself cannot be stood in for: other packages look whether it and `cuda` are there.)
MODULES = frozenset({"sglang.jit_kernel.dsa.cutedsl_paged_mqa_logits"})


class Anything:
    """Stands for a function, decorator or value of a missing package: accepts all, does nothing."""

    def __init__(self, name: str = "anything") -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a decorator gives back what it decorates (`@triton.jit`), else something again."""
        if (
            len(args) == 1
            and not kwargs
            and callable(args[0])
            and not isinstance(args[0], Anything)
        ):
            return args[0]
        return Anything(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)

    def __getitem__(self, key: Any) -> Any:
        return self

    def __mro_entries__(self, bases: tuple[type, ...]) -> tuple[type, ...]:
        return (object,)

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__


class AnyClass(type):
    """Makes classes that may be subclassed and annotated with; unknown attributes are Anything."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)


class StandInModule(types.ModuleType):
    """A module that has every name: a class where the name is capitalised, else Anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        submodule = sys.modules.get(f"{self.__name__}.{name}")
        if submodule is not None:
            return submodule
        is_class = name[:1].isupper()
        value = AnyClass(name, (), {"__module__": self.__name__}) if is_class else Anything(name)
        setattr(self, name, value)
        return value


class TritonConfig:
    """`triton.Config`: torch's inductor subclasses it and reads `kwargs`."""

    def __init__(self, kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        self.kwargs = kwargs or {}


class NoTritonDriver:
    """`triton.runtime.driver`: SGLang falls back to the CPU only when asking for one raises."""

    @property
    def active(self) -> Any:
        raise RuntimeError("0 active drivers ([]). There should only be one.")


def fill_triton(module: types.ModuleType) -> None:
    """The few names of triton whose value is used while SGLang is imported."""

    def cdiv(a: int, b: int) -> int:
        return -(a // -b)

    def next_power_of_2(n: int) -> int:
        return 1 << (n - 1).bit_length() if n > 0 else 1

    runtime = importlib.import_module("triton.runtime")
    vars(runtime)["driver"] = NoTritonDriver()
    vars(module).update(
        __version__="3.0.0",
        cdiv=cdiv,
        next_power_of_2=next_power_of_2,
        Config=TritonConfig,
        runtime=runtime,
    )


class StandInImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and makes the stand-in modules, submodules of any depth included."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES and fullname not in MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = StandInModule(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "triton":
            fill_triton(module)
        elif "." not in module.__name__:
            vars(module)["__version__"] = "0.0.0"


def install() -> None:
    """Puts the importer first, and tells SGLang that this is a CPU engine.

    What SGLang compiles while it runs lies in its environment: two versions in one folder compile
    it anew after each other, and 0.5.23 takes the lock from 0.5.18, which dies of that.
    """
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(sys.prefix, "torch_extensions"))
    if not any(isinstance(finder, StandInImporter) for finder in sys.meta_path):
        sys.meta_path.insert(0, StandInImporter())
