"""Every exception that radixkv raises on purpose.

    RadixKVError
    ├── ConfigError          a setting is unknown, malformed or out of range (also a ValueError)
    ├── UnsupportedError     the engine, model or version is not served; says which and what to do
    ├── HandleClosedError    a handle was used after it was closed
    ├── IndexFormatError     a saved index is damaged, or something else
    ├── ChunkFileError       exported chunks are damaged, of another model, or something else
    ├── PinLimitError        more of a tier would be pinned than may be
    └── TierError            a tier could not be opened or used: tier, operation, reason
        ├── TierLockedError      another process uses the folder
        └── TierFormatError      the folder holds another layout or format version

Outcomes (a miss, a partial hit, a full tier) are values, not exceptions. A caller's mistake is a
plain `ValueError` or `TypeError` that names the argument.
"""


class RadixKVError(Exception):
    """Base of every exception that radixkv raises on purpose."""


class ConfigError(RadixKVError, ValueError):
    """A setting is unknown, malformed or out of range."""


class UnsupportedError(RadixKVError):
    """The engine, its version or the model is not served."""


class HandleClosedError(RadixKVError):
    """A handle was used after it was closed."""


class IndexFormatError(RadixKVError):
    """The file is not a saved index, is damaged, or is of another format version."""


class ChunkFileError(RadixKVError):
    """The file of chunks was cut or damaged, or does not fit the cache that is to take it in."""


class PinLimitError(RadixKVError):
    """Pinned subtrees would have more of a tier than the index allows."""


class TierError(RadixKVError):
    """A tier could not be opened or used.

    Args:
        tier: Name of the tier, such as "disk".
        op: What was attempted, such as "open".
        reason: What went wrong and what to do.
    """

    def __init__(self, tier: str, op: str, reason: str) -> None:
        super().__init__(f"{tier}: {op}: {reason}")
        self.tier = tier
        self.op = op
        self.reason = reason


class TierLockedError(TierError):
    """Another process uses the tier's folder."""


class TierFormatError(TierError):
    """The tier's folder holds another layout or format version."""
