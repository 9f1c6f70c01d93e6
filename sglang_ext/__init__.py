"""radixkv inside SGLang: `--radix-cache-backend radixkv [--radixkv-config FILE]`."""

import time

# SGLang loads its plugins before it reads a model or an adapter, in every process.
BEGAN_S = time.time()
