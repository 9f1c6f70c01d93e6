// TokenArena holds the buffers of token runs, packed into huge pages.
//
//   region   [ buffer | buffer | free | buffer | free free free ]      regions grow with the arena
//
// Invariant: every buffer lies in one region. A region that falls empty goes back to the system,
// but for the last. Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/huge_pages.h"
#include "core/types.h"
#include "index/extent_allocator.h"

namespace radixkv {

class TokenArena {
 public:
  // The head of a buffer; its tokens follow.
  struct Buffer {
    struct Region* region;
    std::uint32_t num_sharers;
    std::uint32_t num_tokens;

    Token* tokens() { return reinterpret_cast<Token*>(this + 1); }
    const Token* tokens() const { return reinterpret_cast<const Token*>(this + 1); }
  };

  TokenArena();
  ~TokenArena();
  TokenArena(const TokenArena&) = delete;
  TokenArena& operator=(const TokenArena&) = delete;

  // A buffer with one sharer and undefined tokens.
  Buffer* take(std::size_t num_tokens);

  static void give_back(Buffer* buffer);

  // The arena that a buffer came from.
  static TokenArena& of(const Buffer* buffer);

 private:
  friend struct Region;

  std::vector<std::unique_ptr<Region>> regions_;
  std::uint64_t num_bytes_ = 0;
};

}  // namespace radixkv
