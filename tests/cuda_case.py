"""Copies to try: engine layouts, slices of chunks, and the bytes around them.

Engine and chunks are flat arrays of random bytes, so that whatever no copy should touch (guards,
gaps, other slots, other chunks' tokens) is compared along with what it should.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

NUM_LAYERS = 3
NUM_SLOTS = 192
BLOCK_SLOTS = 16
GUARD_BYTES = 256


@dataclass(frozen=True)
class Layout:
    """Offsets of engine rows in one allocation, beside what EngineLayout takes."""

    row_bytes: int
    num_kv: int
    offsets: list[int]  # of the rows, [layer][K,V]
    block_stride: int
    num_bytes: int
    block_slots: int = 1
    slot_stride: int | None = None
    num_pieces: int = 1
    piece_stride: int | None = None

    def arguments(self, base: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What EngineLayout() takes, for an engine at `base`."""
        num_rows = len(self.offsets)
        addresses = np.array([base + offset for offset in self.offsets], np.uint64)

        def strides(value: int | None) -> NDArray[np.int64] | None:
            return None if value is None else np.full(num_rows, value, np.int64)

        return (addresses, strides(self.block_stride)), {
            "num_slots": NUM_SLOTS,
            "row_bytes": self.row_bytes,
            "num_kv": self.num_kv,
            "block_slots": self.block_slots,
            "slot_strides": strides(self.slot_stride),
            "num_pieces": self.num_pieces,
            "piece_strides": strides(self.piece_stride),
        }


def separate(row_bytes: int, num_kv: int = 2, shift: int = 0) -> Layout:
    """A buffer for each row, slots side by side. `shift` moves all of it off its alignment."""
    size = NUM_SLOTS * row_bytes + GUARD_BYTES
    offsets = [GUARD_BYTES + shift + row * size for row in range(NUM_LAYERS * num_kv)]
    return Layout(row_bytes, num_kv, offsets, row_bytes, offsets[-1] + size)


def joined(row_bytes: int) -> Layout:
    """K and V of a slot side by side, a buffer for each layer."""
    size = NUM_SLOTS * 2 * row_bytes + GUARD_BYTES
    offsets = [GUARD_BYTES + row // 2 * size + row % 2 * row_bytes for row in range(2 * NUM_LAYERS)]
    return Layout(row_bytes, 2, offsets, 2 * row_bytes, NUM_LAYERS * size + GUARD_BYTES)


def all_layers_in_a_block(row_bytes: int) -> Layout:
    """A block holds its slots for all rows, one row after the other."""
    row_size = BLOCK_SLOTS * row_bytes
    offsets = [GUARD_BYTES + row * row_size for row in range(2 * NUM_LAYERS)]
    block = 2 * NUM_LAYERS * row_size
    size = NUM_SLOTS // BLOCK_SLOTS * block + 2 * GUARD_BYTES
    return Layout(row_bytes, 2, offsets, block, size, BLOCK_SLOTS, row_bytes)


def heads_joined(num_heads: int, head_bytes: int, heads_first: bool) -> Layout:
    """vLLM's FlashAttention: each head's K beside its V, blocks in NHD or HND (heads first)."""
    pair = 2 * head_bytes
    block = BLOCK_SLOTS * num_heads * pair
    size = NUM_SLOTS // BLOCK_SLOTS * block + GUARD_BYTES
    offsets = [
        GUARD_BYTES + row // 2 * size + row % 2 * head_bytes for row in range(2 * NUM_LAYERS)
    ]
    slot, piece = (pair, BLOCK_SLOTS * pair) if heads_first else (num_heads * pair, pair)
    num_bytes = NUM_LAYERS * size + GUARD_BYTES
    row_bytes = num_heads * head_bytes
    return Layout(row_bytes, 2, offsets, block, num_bytes, BLOCK_SLOTS, slot, num_heads, piece)


LAYOUTS: dict[str, Layout] = {
    "separate": separate(2048),
    "mla": separate(1152, num_kv=1),
    "joined": joined(1024),
    "all_layers_in_a_block": all_layers_in_a_block(512),
    "nhd": heads_joined(8, 256, heads_first=False),
    "hnd": heads_joined(8, 256, heads_first=True),
    "nhd_odd_heads": heads_joined(3, 24, heads_first=False),
    "row_of_656": separate(656, num_kv=1),
    "row_of_24": separate(24),
    "row_of_12": separate(12),
    "row_of_6": separate(6),
    "row_of_1": separate(1),
    "off_alignment": separate(2048, shift=3),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


@dataclass
class Slices:
    """Slices of chunks in one array of bytes, and the slots of their tokens."""

    offsets: list[int] = field(default_factory=list)
    chunk_num_tokens: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    slots: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    num_bytes: int = GUARD_BYTES

    def arguments(self, base: int) -> tuple[NDArray[Any], ...]:
        """What load() and store() take, for chunks at `base`."""
        chunks = np.array([base + offset for offset in self.offsets], np.uint64)
        counts = (self.chunk_num_tokens, self.first, self.count)
        return (chunks, *(np.array(values, np.int32) for values in counts), self.slots)


def draw_slices(layout: Layout, seed: int, num_slices: int = 6, longest: int = 32) -> Slices:
    """Whole chunks, tails, and slices that begin or end inside a chunk, at slots in random runs."""
    draw = np.random.default_rng(seed)
    slices = Slices()
    for _ in range(num_slices):
        num_tokens = int(draw.integers(1, longest + 1))
        whole = draw.random() < 0.5
        first = 0 if whole else int(draw.integers(num_tokens))
        slices.offsets.append(slices.num_bytes)
        slices.chunk_num_tokens.append(num_tokens)
        slices.first.append(first)
        slices.count.append(num_tokens if whole else int(draw.integers(1, num_tokens - first + 1)))
        chunk_bytes = num_tokens * len(layout.offsets) * layout.row_bytes
        slices.num_bytes += -(-(chunk_bytes + GUARD_BYTES) // 256) * 256  # extents are aligned
    slices.slots = _draw_slots(draw, sum(slices.count))
    return slices


def even_slices(layout: Layout, seed: int, first: int, count: int) -> Slices:
    """The same tokens of ten chunks of one size: seven equally far apart, three elsewhere."""
    chunk_tokens = 8
    chunk_bytes = chunk_tokens * len(layout.offsets) * layout.row_bytes
    distance = chunk_bytes + GUARD_BYTES
    places = [0, 1, 2, 3, 4, 5, 6, 12, 9, 8]
    draw = np.random.default_rng(seed)
    return Slices(
        [GUARD_BYTES + place * distance for place in places],
        [chunk_tokens] * len(places),
        [first] * len(places),
        [count] * len(places),
        _draw_slots(draw, count * len(places)),
        GUARD_BYTES + (max(places) + 1) * distance,
    )


def _draw_slots(draw: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Slots in runs of one length at random places."""
    run = int(draw.choice([1, 3, 16]))
    runs = draw.permutation(NUM_SLOTS // run)
    return (runs[:, None] * run + np.arange(run)).reshape(-1)[:count]


def random_bytes(num_bytes: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, num_bytes, np.uint8)


def copy_in_numpy(
    layout: Layout, slices: Slices, chunks: NDArray[np.uint8], engine: NDArray[np.uint8], load: bool
) -> None:
    """The copy as its definition reads, a piece at a time."""
    piece_bytes = layout.row_bytes // layout.num_pieces
    slot = iter(slices.slots.tolist())
    for offset, num_tokens, first, count in zip(
        slices.offsets, slices.chunk_num_tokens, slices.first, slices.count, strict=True
    ):
        for token in range(first, first + count):
            block, within = divmod(next(slot), layout.block_slots)
            for row, base in enumerate(layout.offsets):
                stored = offset + (row * num_tokens + token) * layout.row_bytes
                there = base + block * layout.block_stride + within * (layout.slot_stride or 0)
                for piece in range(layout.num_pieces):
                    a = stored + piece * piece_bytes
                    b = there + piece * (layout.piece_stride or 0)
                    if load:
                        engine[b : b + piece_bytes] = chunks[a : a + piece_bytes]
                    else:
                        chunks[a : a + piece_bytes] = engine[b : b + piece_bytes]
