"""SGLang's two Triton kernels of the paged allocator, in torch (needed for page sizes above 1).

Both hand out slots for requests of a batch. A request whose last page has room goes on there; what
is left takes whole pages from `free_pages`, in order. The caller has counted the pages before and
drops them from its list afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Launch:
    """Looks like a Triton kernel: `kernel[grid](...)` calls the function once for all programs."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.function


def extend_slots(
    prefix_lens: torch.Tensor,
    seq_lens: torch.Tensor,
    last_slots: torch.Tensor,
    free_pages: torch.Tensor,
    out: torch.Tensor,
    _batch_size_upper: int,
    page_size: int,
    *_: Any,
    **__: Any,
) -> None:
    """Writes the slots of each request's tokens prefix_len up to seq_len into `out`, in turn.

    `last_slots` has the slot of each request's token before those (-1 without a prefix).
    """
    written = pages_taken = 0
    in_page = torch.arange(page_size)
    rows = zip(prefix_lens.tolist(), seq_lens.tolist(), last_slots.tolist(), strict=True)
    for prefix_len, seq_len, last_slot in rows:
        num_new = seq_len - prefix_len
        num_in_last_page = min(num_new, -prefix_len % page_size)
        num_in_new_pages = num_new - num_in_last_page
        num_pages = -(-num_in_new_pages // page_size)
        out[written : written + num_in_last_page] = torch.arange(
            last_slot + 1, last_slot + 1 + num_in_last_page
        )
        pages = free_pages[pages_taken : pages_taken + num_pages]
        if len(pages) < num_pages:
            return  # The caller sees that the pages do not suffice and takes none.
        slots = (pages[:, None] * page_size + in_page).reshape(-1)[:num_in_new_pages]
        out[written + num_in_last_page : written + num_new] = slots
        pages_taken += num_pages
        written += num_new


def decode_slots(
    seq_lens: torch.Tensor,
    last_slots: torch.Tensor,
    free_pages: torch.Tensor,
    out: torch.Tensor,
    _batch_size_upper: int,
    page_size: int,
    *_: Any,
    **__: Any,
) -> None:
    """One slot a request: beside its last one, or the first of a new page where that is full."""
    pages_taken = 0
    rows = zip(seq_lens.tolist(), last_slots.tolist(), strict=True)
    for i, (seq_len, last_slot) in enumerate(rows):
        if (seq_len - 1) % page_size != 0:
            out[i] = last_slot + 1
            continue
        if pages_taken == len(free_pages):
            return
        out[i] = free_pages[pages_taken] * page_size
        pages_taken += 1


def install() -> None:
    from sglang.srt.mem_cache.allocator import paged

    paged.alloc_extend_kernel = Launch(extend_slots)
    paged.alloc_decode_kernel = Launch(decode_slots)
