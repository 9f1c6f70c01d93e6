#include "index/chunk_table.h"

#include <algorithm>
#include <cstring>

namespace radixkv {

namespace {

constexpr std::uint64_t kEachByte = 0x0101010101010101ull;

// Below this share of unused slots, ids come from the end of the table rather than from short runs.
constexpr std::uint32_t kSpareSlots = 4096;

// Counts leading bytes for which `word_ok` says 1, eight at a time.
template <class WordOk>
std::uint32_t count_leading(const std::uint8_t* states, std::uint32_t count, WordOk word_ok) {
  std::uint32_t at = 0;
  for (; at + 8 <= count; at += 8) {
    std::uint64_t word;
    std::memcpy(&word, states + at, 8);
    if (word_ok(word) != kEachByte) break;
  }
  while (at < count && (word_ok(std::uint64_t{states[at]}) & 1) != 0) ++at;
  return at;
}

}  // namespace

ChunkTable::ChunkTable(std::uint32_t chunk_tokens, std::uint32_t expected_chunks)
    : chunk_tokens_(chunk_tokens), ids_(kNoChunk - 1) {
  chunks_.reserve(expected_chunks);
  nodes_.reserve(expected_chunks);
  states_.reserve(expected_chunks);
}

std::uint32_t ChunkTable::count_in_memory(ChunkId first, std::uint32_t count) const {
  static_assert(state::ready(Tier::kMemory) == 0x01 && state::kDropped == 0x10);
  return count_leading(states_.data() + first, count,
                       [](std::uint64_t word) { return word & ~(word >> 4) & kEachByte; });
}

std::uint32_t ChunkTable::count_visible(ChunkId first, std::uint32_t count) const {
  static_assert(state::ready(Tier::kDisk) == 0x02);
  return count_leading(states_.data() + first, count, [](std::uint64_t word) {
    return (word | word >> 1) & ~(word >> 4) & kEachByte;
  });
}

void ChunkTable::set_nodes(ChunkId first, std::uint32_t count, NodeId node) {
  std::fill_n(nodes_.begin() + first, count, node);
}

Extent ChunkTable::take(std::uint32_t count) {
  std::optional<Extent> run = ids_.take(count);
  const bool grows = run->offset + run->num_units > chunks_.size();
  if (grows && chunks_.size() - num_chunks_ > num_chunks_ / 4 + kSpareSlots) {
    // Only short runs are left inside the table: better those than a table that grows forever.
    ids_.give_back(*run);
    run = ids_.take_shorter(count);
    if (!run) run = ids_.take(count);
  }
  const std::size_t needed = std::size_t{run->offset} + run->num_units;
  if (needed > chunks_.size()) {
    chunks_.resize(needed);
    nodes_.resize(needed, kNoNode);
    states_.resize(needed, 0);
    if (!groups_.empty()) groups_.resize(needed, 0);
  }
  for (std::uint32_t i = 0; i < run->num_units; ++i) chunks_[run->offset + i].is_alive = true;
  num_chunks_ += run->num_units;
  return *run;
}

void ChunkTable::give_back(ChunkId id) {
  const std::uint32_t generation = chunks_[id].generation + 1;
  chunks_[id] = Chunk{};
  chunks_[id].generation = generation;
  nodes_[id] = kNoNode;
  states_[id] = 0;
  if (!groups_.empty()) groups_[id] = 0;
  ids_.give_back({id, 1});
  --num_chunks_;
}

void ChunkTable::make_blank(ChunkId id) {
  const Chunk& last = chunks_[id];
  Chunk blank;
  blank.parent = last.parent;
  blank.generation = last.generation + 1;
  blank.span = last.span;
  blank.num_tokens = last.num_tokens;
  blank.is_sampled = last.is_sampled;
  blank.is_alive = true;
  chunks_[id] = blank;
  states_[id] = 0;
}

}  // namespace radixkv
