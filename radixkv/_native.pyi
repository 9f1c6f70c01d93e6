"""
radixkv's C++ parts. Use the names in `radixkv` instead.
"""

from __future__ import annotations

__all__: list[str] = list()
