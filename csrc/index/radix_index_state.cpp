// What a chunk is on each tier: absent, writing, ready. All changes of state go through this file.
#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

namespace {

constexpr std::uint16_t kMostUses = 0xFFFF;

std::uint32_t offset_of(const ChunkRef& chunk, Tier tier) {
  return tier == Tier::kMemory ? chunk.memory_offset : chunk.disk_offset;
}

}  // namespace

// Takes an extent for each of `num_units`, in order, as far as there is room; returns the offsets.
// One run for all is tried first: long runs make long reads and writes.
std::vector<std::uint32_t> RadixIndex::take_extents(Tier which,
                                                    std::span<const std::uint16_t> num_units) {
  TierState& tier = this->tier(which);
  std::uint64_t total = 0;
  for (const std::uint16_t units : num_units) total += units;
  std::vector<std::uint32_t> offsets;
  if (total == 0 || tier.extents.num_free() == 0) return offsets;
  offsets.reserve(num_units.size());
  const bool headers_suffice = num_units.size() <= tier.max_chunks - tier.num_extents;
  if (headers_suffice && total <= tier.extents.num_free()) {
    if (const auto run = tier.extents.take(static_cast<std::uint32_t>(total))) {
      std::uint32_t offset = run->offset;
      for (const std::uint16_t units : num_units) {
        offsets.push_back(offset);
        offset += units;
      }
      tier.num_extents += static_cast<std::uint32_t>(num_units.size());
      return offsets;
    }
  }
  for (const std::uint16_t units : num_units) {
    if (tier.num_extents >= tier.max_chunks) break;
    const auto extent = tier.extents.take(units);
    if (!extent) break;
    offsets.push_back(extent->offset);
    ++tier.num_extents;
  }
  return offsets;
}

void RadixIndex::give_back_extent(Tier which, Extent extent) {
  tier(which).extents.give_back(extent);
  --tier(which).num_extents;
}

// absent → writing, with one use. REQUIRES: absent on the tier, its parent is kept there, extent
// taken.
void RadixIndex::begin_writing(ChunkId id, Tier which, std::uint32_t offset,
                               std::uint16_t num_units) {
  const std::size_t at = index_of(which);
  Chunk& chunk = chunks_[id];
  chunk.offset[at] = offset;
  chunk.num_units = num_units;
  chunks_.state(id) |= state::writing(which);
  if (chunk.parent != kNoChunk) ++chunks_[chunk.parent].num_children[at];
  ++tier(which).num_writing;
  marks_.charge(chunks_.group(id), which, num_units);
  add_use(id, which);
  record(0x10 + at, id, offset);
  if (config_.policy->learns) know_again(id, which);
}

// writing → ready.
void RadixIndex::set_ready(ChunkId id, Tier which) {
  chunks_.state(id) ^= state::kept(which);
  --tier(which).num_writing;
  ++tier(which).num_ready;
  record(0x20 + index_of(which), id, chunks_[id].offset[index_of(which)]);
  tell(id, which, true);
  if (runs_) note_runs(id, which, true);
  note_ready(id, which);
  if (which == Tier::kDisk) forget_remains(id);
  refresh_best(id, which);
  queue_if_leaf(id, which);
  if (which == Tier::kMemory) queue_spill_with_all_below(id);
  supersede_tails(id, which);
}

// writing → ready, where no command writes: ends the use that begin_writing() began.
void RadixIndex::finish_writing(ChunkId id, Tier which) {
  --chunks_[id].uses[index_of(which)];
  --tier(which).num_uses;
  set_ready(id, which);
}

// writing or ready → absent. An extent in use goes to limbo. REQUIRES: no chunk below it is kept
// there. The record may be gone afterwards.
void RadixIndex::vacate(ChunkId id, Tier which) {
  TierState& tier = this->tier(which);
  const std::size_t at = index_of(which);
  Chunk& chunk = chunks_[id];
  tell(id, which, false);
  if (runs_) note_runs(id, which, false);
  note_left(id, which);
  if (which == Tier::kDisk) note_remains(id);
  --(chunks_.has(id, state::ready(which)) ? tier.num_ready : tier.num_writing);
  record(0x30 + at, id, chunk.offset[at]);
  marks_.discharge(chunks_.group(id), which, chunk.num_units);
  if (chunk.uses[at] > 0) {
    tier.limbo[chunk.offset[at]] = {chunk.num_units, chunk.uses[at]};
    chunk.uses[at] = 0;
  } else {
    give_back_extent(which, {chunk.offset[at], chunk.num_units});
  }
  chunk.offset[at] = kNoExtent;
  chunks_.state(id) &= static_cast<std::uint8_t>(~state::kept(which));
  refresh_best(id, which);
  const ChunkId parent = chunk.parent;
  if (parent != kNoChunk) {
    --chunks_[parent].num_children[at];
    write_time(parent, chunk.time);
    if (chunk.num_uses > chunks_[parent].num_uses) set_uses(parent, chunk.num_uses);
    queue_if_leaf(parent, which);
  }
  remove_unless_needed(id);
}

// The same for a chunk whose bytes turned out bad or never came: nothing may be kept below it.
void RadixIndex::vacate_with_all_below(ChunkId id, Tier which) {
  if (!chunks_.is_tail(id) && chunks_[id].num_children[index_of(which)] > 0) {
    std::vector<ChunkId> below;
    collect(chunks_.node(id), chunks_.end(id) + 1, below);
    for (auto at = below.rbegin(); at != below.rend(); ++at) {
      if (chunks_.has(*at, state::kept(which))) vacate(*at, which);
    }
  }
  vacate(id, which);
}

void RadixIndex::add_use(ChunkId id, Tier which) {
  std::uint16_t& uses = chunks_[id].uses[index_of(which)];
  if (uses == kMostUses) {
    throw std::invalid_argument("uses: chunk " + std::to_string(id) + " has 65535 already");
  }
  ++uses;
  ++tier(which).num_uses;
}

// Uses of the extent by commands that write it, or that read it; in limbo they may be either.
std::uint32_t RadixIndex::num_uses(const ChunkRef& chunk, Tier which, bool is_written) const {
  const std::uint32_t offset = offset_of(chunk, which);
  const auto limbo = tier(which).limbo.find(offset);
  if (limbo != tier(which).limbo.end()) return limbo->second.second;
  const bool is_meant = chunks_.is_current(chunk.id, chunk.generation) &&
                        chunks_[chunk.id].offset[index_of(which)] == offset &&
                        chunks_.has(chunk.id, state::writing(which)) == is_written;
  return is_meant ? chunks_[chunk.id].uses[index_of(which)] : 0;
}

void RadixIndex::require_uses(std::span<const ChunkRef> chunks, Tier which, bool is_written) const {
  // On a path each chunk stands once. Only else are they counted.
  const bool is_path =
      std::adjacent_find(chunks.begin(), chunks.end(), [](const ChunkRef& a, const ChunkRef& b) {
        return a.span >= b.span;
      }) == chunks.end();
  std::unordered_map<std::uint32_t, std::uint32_t> num_named;
  for (const ChunkRef& chunk : chunks) {
    const std::uint32_t wanted = is_path ? 1 : ++num_named[offset_of(chunk, which)];
    if (num_uses(chunk, which, is_written) >= wanted) continue;
    throw std::invalid_argument(
        "chunks: expected chunks that a command " + std::string(is_written ? "writes" : "uses") +
        " in " + (which == Tier::kMemory ? "memory" : "disk") + ", got id " +
        std::to_string(chunk.id) + ", generation " + std::to_string(chunk.generation));
  }
}

// Returns whether the chunk still has that extent; false where it was in limbo.
bool RadixIndex::end_use(const ChunkRef& chunk, Tier which) {
  TierState& tier = this->tier(which);
  const auto limbo = tier.limbo.find(offset_of(chunk, which));
  --tier.num_uses;
  if (limbo == tier.limbo.end()) {
    --chunks_[chunk.id].uses[index_of(which)];
    return true;
  }
  if (--limbo->second.second == 0) {
    give_back_extent(which, {limbo->first, limbo->second.first});
    tier.limbo.erase(limbo);
  }
  return false;
}

// A use of a ready chunk ended: what waited for that happens now.
void RadixIndex::end_reading(const ChunkRef& chunk, Tier which) {
  if (!end_use(chunk, which)) return;
  if (chunks_[chunk.id].uses[index_of(which)] > 0) return;
  queue_if_leaf(chunk.id, which);
  if (chunks_.is_tail(chunk.id)) leave_if_covered(chunk.id, which);
}

// An admission found the chunk.
void RadixIndex::note_use(ChunkId id, std::uint64_t time) {
  count_use(id, time);
  if (config_.policy->is_renewed_by_uses) write_time(id, time);
}

// Counts once an admission: one that has found the chunk may also store behind it.
void RadixIndex::count_use(ChunkId id, std::uint64_t time) {
  const Chunk& chunk = chunks_[id];
  if (time > chunk.time && chunk.num_uses < kMostUses) {
    set_uses(id, static_cast<std::uint16_t>(chunk.num_uses + 1));
  }
}

void RadixIndex::set_uses(ChunkId id, std::uint16_t num_uses) {
  const std::uint32_t before = tier(Tier::kMemory).leaves.weight(id);
  chunks_[id].num_uses = num_uses;
  record(0x41, id, num_uses);
  note_changed(id);
  if (tier(Tier::kMemory).leaves.weight(id) == before) return;
  for (TierState& tier : tiers_) tier.leaves.reweigh(id);
}

void RadixIndex::write_time(ChunkId id, std::uint64_t time) {
  now_ = std::max(now_, time);
  if (time <= chunks_[id].time) return;
  chunks_[id].time = time;
  record(0x40, id, time);
  note_changed(id);
  for (const Tier tier : kTiers) {
    if (chunks_.is_visible(id, tier)) refresh_best(id, tier);
  }
}

bool RadixIndex::is_leaf(ChunkId id, Tier which) const {
  return chunks_.has(id, state::ready(which)) &&
         (chunks_.is_tail(id) || chunks_[id].num_children[index_of(which)] == 0);
}

void RadixIndex::queue_if_leaf(ChunkId id, Tier which) {
  if (!is_leaf(id, which)) return;
  tier(which).leaves.push(id);
  tier(which).forget_held(id);
}

// A running digest of every change: equal on replicas that saw the same calls.
void RadixIndex::record(std::uint64_t what, ChunkId id, std::uint64_t value) {
  constexpr std::uint64_t kPrime = 0x9FB21C651E98DF25ull;
  hash_ ^= (what << 56) ^ (std::uint64_t{id} << 32) ^ value;
  hash_ = std::rotl(hash_, 29) * kPrime;
}

}  // namespace radixkv
