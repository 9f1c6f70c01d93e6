"""The whole of radixkv in one minute, on numpy arrays: keep the KV of a prompt, find it, load it.

    python examples/quickstart.py

The "engine" is a few arrays. A real one differs in where its KV lies, not in the calls.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radixkv import CacheConfig, KVCache, describe_arrays

MIB = 1 << 20
NUM_SLOTS = 4096  # tokens that the engine has room for
NUM_LAYERS, NUM_HEADS, HEAD_DIM = 4, 2, 64

Tokens = NDArray[np.uint32]
Slots = NDArray[np.int64]


class ToyEngine:
    """KV memory of an engine: one array for each layer's K and V, one row a token slot."""

    def __init__(self) -> None:
        shape = (NUM_SLOTS, NUM_HEADS, HEAD_DIM)
        self.kv = [np.zeros(shape, np.float16) for _ in range(2 * NUM_LAYERS)]

    def compute(self, tokens: Tokens, slots: Slots, first: int = 0) -> None:
        """Prefill from position `first` on. Made up, but as in a model each token's KV depends on
        all tokens before it."""
        sums = np.cumsum(tokens.astype(np.float64))[first:, None, None] % 1000
        for number, array in enumerate(self.kv):
            array[slots] = (sums + number).astype(np.float16)

    def read(self, slots: Slots) -> NDArray[np.float16]:
        return np.stack([array[slots] for array in self.kv])


def tokenize(text: str) -> Tokens:
    """One token a character; radixkv never asks what a token means."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def open_cache(engine: ToyEngine, folder: Path) -> KVCache:
    layout, memory = describe_arrays(engine.kv)
    config = CacheConfig(
        memory_size_bytes=64 * MIB, disk_path=folder / "kv", disk_size_bytes=64 * MIB
    )
    return KVCache(layout, config, engine=memory)


def main(folder: Path) -> None:
    system = "You are a helpful assistant. " * 20
    question = system + "What is a radix tree?"
    request = system + "Write a poem about trees."
    first, second = tokenize(question), tokenize(request)

    engine = ToyEngine()
    with open_cache(engine, folder) as cache:
        # A prompt that nobody has seen: compute it, then keep its KV.
        slots = np.arange(len(first))
        engine.compute(first, slots)
        ticket = cache.store(first, slots)
        assert ticket is not None
        assert ticket.wait()
        print(f"stored {len(first)} tokens")

        # Another one that begins alike. The match ends at the very token where they part.
        slots = np.arange(1000, 1000 + len(second))
        with cache.acquire(second) as handle:
            num_kept = handle.num_tokens
            print(
                f"{num_kept} of {len(second)} tokens are kept, up to {request[:num_kept][-12:]!r}"
            )
            assert cache.load(handle, slots[:num_kept]).wait()
        engine.compute(second, slots[num_kept:], first=num_kept)
        loaded = engine.read(slots)

        # What was loaded is what would have been computed.
        engine.compute(second, slots)
        assert np.array_equal(loaded, engine.read(slots))
        print("loaded and computed KV are equal")

        cache.settle()  # the disk has it too

    # After a restart the index comes back from the disk.
    engine = ToyEngine()
    with open_cache(engine, folder) as cache:
        match = cache.match(first)
        print(
            f"after a restart: {match.num_tokens} tokens kept, {match.num_memory_tokens} in memory"
        )
        num_kept = cache.fetch(first)  # disk → memory; an engine prefetches while a request queues
        with cache.acquire(first, limit=num_kept) as handle:
            assert cache.load(handle, np.arange(num_kept)).wait()
        print(f"{num_kept} tokens loaded from disk")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
