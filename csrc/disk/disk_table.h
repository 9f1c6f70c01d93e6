// DiskTable is what the data plane knows about the chunks in its file, by where they lie.
//
//   unit:   0 1 2 3 4 5 6 7           entries are numbered as their header slots in the file:
//   slot:  [2 2 2 2 0 0 - -]          entry 0: units 4, 5    entry 2: units 0 … 3
//
// Invariants: each unit is in at most one entry; an entry that is not kFree owns its header slot.
// Thread safety: one thread (the constructor's, then the disk thread's).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <vector>

#include "core/chunk_key.h"
#include "core/types.h"

namespace radixkv {

struct DiskEntry {
  enum class State : std::uint8_t {
    kFree,
    kWriting,  // reserved for a spill that is not acknowledged
    kReady,
    kDead,  // no longer counts, but its header may still be in the file
  };

  State state = State::kFree;
  bool bound =
      false;  // `id` and `generation` are known; not so between a restart and the first use
  std::uint16_t num_units = 0;
  std::uint16_t num_tokens = 0;
  ChunkId id = 0;
  std::uint32_t generation = 0;
  std::uint32_t disk_offset = kNoExtent;
  std::uint32_t span = 0;
  Digest key{};
  Digest namespace_digest{};
  std::uint64_t checksum = 0;
};

class DiskTable {
 public:
  static constexpr std::uint32_t kNoSlot = 0xFFFFFFFFu;

  DiskTable(std::uint32_t num_units, std::uint32_t num_headers);

  // The slot of the chunk whose extent begins at `disk_offset`, or kNoSlot.
  std::uint32_t find(std::uint32_t disk_offset) const;

  // The same where that is `chunk`, by id and generation, or one not seen since a restart that has
  // its place and length.
  std::uint32_t find_chunk(const ChunkRef& chunk) const;

  // Slots whose extents share a unit with `chunk`'s disk extent.
  std::vector<std::uint32_t> overlapping(const ChunkRef& chunk) const;

  // Takes the lowest free slot, so that used headers stay dense, or kNoSlot. REQUIRES: nothing
  // overlaps.
  std::uint32_t take(const DiskEntry& entry);

  // Puts an entry read from the file back. REQUIRES: as `take`; slots come in ascending order,
  // before any take.
  void restore(std::uint32_t slot, const DiskEntry& entry);

  // The slot's units and header are free again.
  void release(std::uint32_t slot);

  DiskEntry& operator[](std::uint32_t slot) { return entries_[slot]; }
  const DiskEntry& operator[](std::uint32_t slot) const { return entries_[slot]; }

 private:
  void put(std::uint32_t slot, const DiskEntry& entry);

  std::vector<DiskEntry> entries_;           // by header slot
  std::vector<std::uint32_t> slot_of_unit_;  // kNoSlot where no chunk lies
  std::priority_queue<std::uint32_t, std::vector<std::uint32_t>, std::greater<>> freed_;
  std::uint32_t next_unused_ = 0;  // slots from here on were never taken
};

}  // namespace radixkv
