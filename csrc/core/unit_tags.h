// UnitTags says which chunk's bytes each unit of the memory tier holds.
//
//   unit:  0   1   2   3   4   5     a chunk is there if all units of its extent carry its tag;
//   tag:  [a] [a] [a] [ ] [b] [b]    who begins to write an extent wipes its tags first
//
// It is the data plane's check that a command means the bytes that are there: an extent that was
// given to another chunk meanwhile, in whole or in part, no longer carries the tag.
//
// Thread safety: any thread. Tags are set after the bytes are down, and whoever sees them sees the
// bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/types.h"

namespace radixkv {

class UnitTags {
 public:
  explicit UnitTags(std::int64_t num_units)
      : tags_(std::make_unique<std::atomic<std::uint64_t>[]>(static_cast<std::size_t>(num_units))) {
    for (std::int64_t unit = 0; unit < num_units; ++unit) tags_[unit].store(kNone);
  }

  // The extent holds nothing until `set`.
  void wipe(const ChunkRef& chunk) { fill(chunk, kNone); }

  // The extent holds `chunk`, whole.
  void set(const ChunkRef& chunk) { fill(chunk, tag_of(chunk)); }

  bool holds(const ChunkRef& chunk) const {
    for (std::uint32_t i = 0; i < chunk.num_units; ++i) {
      if (tags_[chunk.memory_offset + i].load(std::memory_order_acquire) != tag_of(chunk)) {
        return false;
      }
    }
    return true;
  }

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};

  static std::uint64_t tag_of(const ChunkRef& chunk) {
    return std::uint64_t{chunk.id} << 32 | chunk.generation;
  }

  void fill(const ChunkRef& chunk, std::uint64_t tag) {
    for (std::uint32_t i = 0; i < chunk.num_units; ++i) {
      tags_[chunk.memory_offset + i].store(tag, std::memory_order_release);
    }
  }

  std::unique_ptr<std::atomic<std::uint64_t>[]> tags_;
};

}  // namespace radixkv
