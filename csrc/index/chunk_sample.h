// A sample of what an index keeps, for who wants to see where its room goes.
//
// Looking at all of a large tree would hold up those who change it; so a look takes some chunks,
// each with the nodes of the tree that lie above it, and who looks adds up. Thread safety: reads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "index/radix_index.h"

namespace radixkv {

class ChunkSample {
 public:
  static constexpr std::size_t kMostNodes = 8;

  // A chunk that a match may find.
  struct Row {
    std::uint32_t space;
    std::uint32_t num_tokens;
    std::uint32_t num_uses;
    std::uint32_t in_memory;
    std::array<std::uint32_t, kMostNodes> nodes;  // from below the root; kNoNode behind the last
  };

  // A node, by its first tokens. Empty where there is no such node any more.
  struct Head {
    std::uint32_t start = 0;  // position of its first token
    std::uint32_t end = 0;
    std::vector<Token> tokens;
  };

  // Looks at `count` slots from `first` on, `step` apart, round and round.
  static std::vector<Row> take(const RadixIndex& index, std::uint64_t first, std::uint64_t step,
                               std::uint32_t count);
  static Head head(const RadixIndex& index, NodeId node, std::uint32_t most_tokens);
};

}  // namespace radixkv
