"""What becomes of requests that run on KV which then could not be loaded.

A load's slots are promised at admission, so its readers run already when it fails. They end with an
error, and neither what they read nor what they computed on top of it may be found by others, on any
tier. (How it is kept from being found in SGLang's own tree is each generation's affair.)
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

_POISONED = "radixkv_poisoned"


def is_poisoned(req: Any) -> bool:
    """Whether a running request read KV that was not loaded: nothing of it may be kept."""
    return bool(getattr(req, _POISONED, False))


def forget_poison(req: Any) -> None:
    """A request has given back its slots; if it comes again, it begins anew."""
    setattr(req, _POISONED, False)


def end_with_error(req: Any) -> None:
    """End a running request at its next result, and keep nothing of it."""
    setattr(req, _POISONED, True)
    if req.finished():  # just now, and the answer is not out yet
        req.finished_reason = _error()
    else:
        req.to_finish = _error()


def _error() -> Any:
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    return FINISH_ABORT(
        "radixkv: the KV of a cached prefix could not be loaded; send the request again",
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "InternalServerError",
    )
