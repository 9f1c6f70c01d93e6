// The name of a chunk wherever it lies outside memory: a chain of hashes over its tokens.
//
//   root key  = SHA-256("radixkv-root" || namespace digest)[:16]
//   chunk key = SHA-256(parent's key || tokens as little-endian uint32)[:16]
//
// Equal prefixes in equal namespaces have equal keys on every machine.
// Thread safety: free functions, any thread; each thread keeps a hash context of its own.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "core/types.h"

namespace radixkv {

using Digest = std::array<std::byte, 16>;

// The parent key of the first chunk of a prompt.
Digest root_key(const Digest& namespace_digest);

// The key of the chunk of `tokens` below the chunk with key `parent`.
Digest chunk_key(const Digest& parent, std::span<const Token> tokens);

}  // namespace radixkv
