// Values that every room shares: ids, extents, tokens and the record that commands carry.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace radixkv {

using Token = std::uint32_t;
using ChunkId = std::uint32_t;

inline constexpr std::uint32_t kNoExtent = 0xFFFFFFFFu;

// Where a chunk lies in a tier, in units of that tier.
struct Extent {
  std::uint32_t offset = kNoExtent;
  std::uint32_t num_units = 0;
};

// One chunk in a command, or one slice of a match. The same 32 bytes as CHUNK_DTYPE in commands.py.
struct ChunkRef {
  ChunkId id;
  std::uint32_t generation;
  std::uint32_t memory_offset;       // first unit in the memory tier, or kNoExtent
  std::uint32_t disk_offset;         // first unit in the disk tier, or kNoExtent
  std::uint32_t parent_disk_offset;  // the parent chunk's, or kNoExtent for the first of a prompt
  std::uint32_t span;                // the chunk's first token is at span * chunk_tokens
  std::uint16_t num_tokens;          // tokens in the chunk
  std::uint16_t num_units;           // units that its extents span
  std::uint16_t first;               // the slice meant: tokens first ... first + count - 1
  std::uint16_t count;
};
static_assert(sizeof(ChunkRef) == 32);

}  // namespace radixkv
