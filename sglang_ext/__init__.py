"""radixkv inside SGLang: `--radix-cache-backend radixkv [--radixkv-config FILE]`."""
