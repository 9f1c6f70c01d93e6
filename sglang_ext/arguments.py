"""SGLang's arguments as it decided them, which is not always as they were given."""

from __future__ import annotations

from typing import Any


def decided(args: Any, name: str, default: Any = None) -> Any:
    """One argument, once SGLang has resolved them.

    From 0.5.20 on its record keeps what was given, and what was decided lies beside that.

    Args:
        args: SGLang's `ServerArgs`.
        name: Of its field.
        default: Where this release has no such field.
    """
    try:
        from sglang.srt.arg_groups.overrides import resolution_result
    except ImportError:
        return getattr(args, name, default)
    return resolution_result(args, name, default)
