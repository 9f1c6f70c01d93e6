// Leaving: eviction in the policy's order, dropping of subtrees.
#include <algorithm>
#include <stdexcept>

#include "index/radix_index.h"
#include "index/run_finder.h"

namespace radixkv {

namespace {

constexpr std::uint64_t kUsualBatch = 64;  // chunks of one unit that are evicted at once

}  // namespace

std::vector<ChunkRef> RadixIndex::evict(Tier which, std::uint64_t num_units) {
  return evict_but(kNoChunk, which, num_units);
}

// What is spilled next is newer than its path on disk says, which learns of it only then. Without
// an exception that path might be the oldest, and leave for its own continuation.
std::vector<ChunkRef> RadixIndex::evict_for_spill(std::uint64_t num_units) {
  ChunkId id = kNoChunk;
  for (const auto& [queued, generation] : spill_queue_) {
    if (!chunks_.is_current(queued, generation)) continue;
    id = queued;
    break;
  }
  while (id != kNoChunk && !chunks_.has(id, state::kept(Tier::kDisk))) id = chunks_[id].parent;
  return evict_but(id, Tier::kDisk, num_units);
}

std::vector<ChunkRef> RadixIndex::evict_but(ChunkId spared, Tier which, std::uint64_t num_units) {
  TierState& tier = this->tier(which);
  std::vector<ChunkRef> evicted;
  evicted.reserve(std::min(num_units, kUsualBatch));
  std::uint64_t num_freed = 0;
  std::vector<MarkId> groups = evictable_groups(which);
  while (num_freed < num_units) {
    const ChunkId id = tier.leaves.pop(groups, now_);
    if (id == kNoChunk) break;
    if (id == spared || passed_over(id, which)) continue;
    const bool was_pinned = marks_.is_pinned(chunks_.group(id));
    evicted.push_back(ref(id));
    num_freed += chunks_[id].num_units;
    ++tier.num_evicted;
    note_ghost(id, which);
    vacate(id, which);
    if (was_pinned) groups = evictable_groups(which);
  }
  if (spared != kNoChunk) queue_if_leaf(spared, which);
  return evicted;
}

// Whether what the queue gave is no leaf any more, or held.
bool RadixIndex::passed_over(ChunkId id, Tier which) {
  if (!is_leaf(id, which)) return true;
  const bool is_held = chunks_[id].uses[index_of(which)] > 0 || is_pinned(id);
  if (is_held) tier(which).held.insert(id);
  return is_held;
}

// REQUIRES: nothing below it is kept. The record may be gone afterwards.
void RadixIndex::vacate_everywhere(ChunkId id) {
  const std::uint32_t generation = chunks_[id].generation;
  for (const Tier tier : kTiers) {
    if (chunks_.is_current(id, generation) && chunks_.has(id, state::kept(tier))) vacate(id, tier);
  }
}

std::vector<ChunkRef> RadixIndex::drop(NamespaceId space, const TokenView& prefix) {
  const Path path = walk(space, prefix);
  if (path.point.position < prefix.size()) return {};
  std::vector<ChunkId> below;
  collect(path.point.node, path.point.position, below);
  std::vector<ChunkRef> dropped;
  constexpr std::uint8_t kAnyTier = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  for (const ChunkId id : below) {
    const bool is_there = chunks_.has(id, kAnyTier) || is_pinned(id);
    if (is_there && !chunks_.has(id, state::kDropped)) dropped.push_back(ref(id));
  }
  num_dropped_ += dropped.size();
  for (auto at = dropped.rbegin(); at != dropped.rend(); ++at) {
    if (!is_pinned(at->id)) {
      vacate_everywhere(at->id);
      continue;
    }
    for (const Tier tier : kTiers) {
      tell(at->id, tier, false);
      note_left(at->id, tier);
    }
    if (runs_) runs_->note_invisible(at->id);
    chunks_.state(at->id) |= state::kDropped;
    record(0x50, at->id, 0);
    for (const Tier tier : kTiers) refresh_best(at->id, tier);
  }
  return dropped;
}

std::size_t RadixIndex::demote(NamespaceId space, const TokenView& prefix) {
  const std::vector<ChunkId> below = kept_below(space, prefix);
  std::size_t num_left = 0;
  for (auto at = below.rbegin(); at != below.rend(); ++at) {
    const bool can_leave = is_leaf(*at, Tier::kMemory) &&
                           chunks_.has(*at, state::ready(Tier::kDisk)) &&
                           chunks_[*at].uses[index_of(Tier::kMemory)] == 0 && !is_pinned(*at);
    if (!can_leave) continue;
    vacate(*at, Tier::kMemory);
    ++num_left;
  }
  return num_left;
}

std::size_t RadixIndex::clear_memory() {
  std::size_t num_cleared = 0;
  for (const auto& [root, digest] : roots_) {
    std::vector<ChunkId> all;
    collect(root, 0, all);
    for (auto at = all.rbegin(); at != all.rend(); ++at) {
      if (!chunks_.has(*at, state::kept(Tier::kMemory)) || is_pinned(*at)) continue;
      vacate(*at, Tier::kMemory);
      ++num_cleared;
    }
  }
  return num_cleared;
}

std::vector<ChunkRef> RadixIndex::clear_all() {
  std::vector<ChunkRef> dropped;
  for (const auto& [root, digest] : roots_) {
    const std::vector<ChunkRef> part = drop(root, TokenView(nullptr, 0, TokenType::kUint32));
    dropped.insert(dropped.end(), part.begin(), part.end());
  }
  return dropped;
}

}  // namespace radixkv
