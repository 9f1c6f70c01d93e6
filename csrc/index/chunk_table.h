// ChunkTable keeps the record of every chunk. Ids are handed out in runs, so that the chunks of one
// prompt lie side by side and the states of a long path are read as contiguous bytes.
//
//   states   [ r r r r r r w . | r r r … ]      one byte a chunk: all that a match reads
//   nodes    [ 4 bytes each    |       … ]      what a split writes
//   chunks   [ 48 bytes each   |       … ]      all else
//   groups   [ 4 bytes each    |       … ]      the marks that govern them; empty where none does
//
// A chunk is (parent chunk, its tokens) and never changes identity. When its slot is freed the
// generation goes up, so that a command that names the old chunk is refused. Thread safety: reads
// may run beside each other, a write needs the table alone.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/huge_pages.h"
#include "core/types.h"
#include "index/extent_allocator.h"

namespace radixkv {

using NodeId = std::uint32_t;

inline constexpr ChunkId kNoChunk = 0xFFFFFFFFu;
inline constexpr NodeId kNoNode = 0xFFFFFFFFu;

enum class Tier : std::uint8_t { kMemory = 0, kDisk = 1 };
inline constexpr std::size_t kNumTiers = 2;
inline constexpr std::array<Tier, kNumTiers> kTiers = {Tier::kMemory, Tier::kDisk};

constexpr std::size_t index_of(Tier tier) { return static_cast<std::size_t>(tier); }

// The bits of a chunk's state byte.
namespace state {

// Kept on the tier and complete.
constexpr std::uint8_t ready(Tier tier) { return tier == Tier::kMemory ? 0x01 : 0x02; }
// Kept on the tier, its bytes are still on their way.
constexpr std::uint8_t writing(Tier tier) { return tier == Tier::kMemory ? 0x04 : 0x08; }
constexpr std::uint8_t kept(Tier tier) {
  return static_cast<std::uint8_t>(ready(tier) | writing(tier));
}
// Dropped by the caller, and there only until the last pin at or below it ends: no match sees it.
inline constexpr std::uint8_t kDropped = 0x10;
// In the queue of leaves of the tier.
constexpr std::uint8_t queued(Tier tier) { return tier == Tier::kMemory ? 0x20 : 0x40; }
// A spill failed; it is not tried again.
inline constexpr std::uint8_t kNoSpill = 0x80;

}  // namespace state

struct Chunk {
  ChunkId parent = kNoChunk;  // kNoChunk for the first of a prompt
  std::uint32_t generation = 0;
  std::uint32_t span = 0;
  std::uint16_t num_tokens = 0;
  std::uint16_t num_units = 0;
  std::array<std::uint32_t, kNumTiers> offset = {kNoExtent, kNoExtent};
  // A full chunk counts its children that are kept on each tier. A tail has no children: its first
  // number is the next tail of the same node instead (see next_tail).
  std::array<std::uint32_t, kNumTiers> num_children = {0, 0};
  std::uint64_t time = 0;  // recency: the highest admission written to it
  std::array<std::uint16_t, kNumTiers> uses = {0, 0};
  std::uint16_t num_uses = 0;  // see LeafFacts
  bool is_alive = false;       // false: a free slot
  bool is_sampled = false;     // whether a policy that learns is told of it
};
static_assert(sizeof(Chunk) == 48);

class ChunkTable {
 public:
  // `expected_chunks`: address space is set aside for so many, so that the table need not move on
  // the way.
  ChunkTable(std::uint32_t chunk_tokens, std::uint32_t expected_chunks);

  Chunk& operator[](ChunkId id) { return chunks_[id]; }
  const Chunk& operator[](ChunkId id) const { return chunks_[id]; }

  // The node where its last token lies.
  NodeId& node(ChunkId id) { return nodes_[id]; }
  NodeId node(ChunkId id) const { return nodes_[id]; }
  void set_nodes(ChunkId first, std::uint32_t count, NodeId node);

  std::uint8_t& state(ChunkId id) { return states_[id]; }
  std::uint8_t state(ChunkId id) const { return states_[id]; }
  bool has(ChunkId id, std::uint8_t bits) const { return (states_[id] & bits) != 0; }

  // The number of the mark that governs the chunk (index/mark_table.h), 0 for none.
  std::uint32_t group(ChunkId id) const { return groups_.empty() ? 0 : groups_[id]; }
  void set_group(ChunkId id, std::uint32_t group) { groups_[id] = group; }
  // From now on chunks may have a group; or all have none again.
  void use_groups() { groups_.resize(std::max<std::size_t>(chunks_.size(), 1), 0); }
  void forget_groups() { groups_ = {}; }

  // A match may end on it: ready on the tier, and not dropped.
  bool is_visible(ChunkId id, Tier tier) const {
    return (states_[id] & (state::ready(tier) | state::kDropped)) == state::ready(tier);
  }

  // How many of the chunks first … first + count - 1, from the front, are visible in memory; and
  // how many are visible on any tier.
  std::uint32_t count_in_memory(ChunkId first, std::uint32_t count) const;
  std::uint32_t count_visible(ChunkId first, std::uint32_t count) const;

  bool is_tail(ChunkId id) const { return chunks_[id].num_tokens < chunk_tokens_; }
  std::uint32_t start(ChunkId id) const { return chunks_[id].span * chunk_tokens_; }
  std::uint32_t end(ChunkId id) const { return start(id) + chunks_[id].num_tokens; }

  // The list of tails of a node. REQUIRES: is_tail(id).
  ChunkId next_tail(ChunkId id) const { return chunks_[id].num_children[0]; }
  void set_next_tail(ChunkId id, ChunkId next) { chunks_[id].num_children[0] = next; }

  // Takes up to `count` ids that follow each other, mostly all of them. Their records are blank.
  Extent take(std::uint32_t count);
  // Frees a slot; its generation goes up.
  void give_back(ChunkId id);
  // The chunk is what it was when it was made, but of another generation.
  void make_blank(ChunkId id);

  // True where `id` is a chunk, and the one of that generation.
  bool is_current(ChunkId id, std::uint32_t generation) const {
    return id < chunks_.size() && chunks_[id].generation == generation && chunks_[id].is_alive;
  }

  std::uint32_t num_chunks() const { return num_chunks_; }
  std::uint32_t num_slots() const { return static_cast<std::uint32_t>(chunks_.size()); }

 private:
  std::uint32_t chunk_tokens_;
  std::uint32_t num_chunks_ = 0;
  template <class T>
  using Column = std::vector<T, HugePageAllocator<T>>;

  Column<Chunk> chunks_;
  Column<NodeId> nodes_;
  Column<std::uint8_t> states_;
  Column<std::uint32_t> groups_;
  ExtentAllocator ids_;
};

}  // namespace radixkv
