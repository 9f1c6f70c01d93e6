"""radixkv: KV caches outside the GPU, found by a radix tree over token ids."""
