// Looking at a subtree.
#include <algorithm>

#include "index/radix_index.h"

namespace radixkv {

SubtreeStats RadixIndex::subtree_stats(NamespaceId space, const TokenView& prefix) const {
  SubtreeStats stats;
  const Path path = walk(space, prefix);
  if (path.point.position < prefix.size()) return stats;
  std::vector<ChunkId> below;
  collect(path.point.node, path.point.position, below);
  constexpr std::uint8_t kAnyTier = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  for (const ChunkId id : below) {
    if (!chunks_.has(id, kAnyTier) || chunks_.has(id, state::kDropped)) continue;
    const Chunk& chunk = chunks_[id];
    ++stats.chunks;
    stats.tokens += chunk.num_tokens;
    stats.hits += chunk.num_uses;
    stats.last_use = std::max(stats.last_use, chunk.time);
    for (const Tier tier : kTiers) {
      if (chunks_.has(id, state::ready(tier))) ++stats.ready_chunks[index_of(tier)];
      if (chunks_.has(id, state::kept(tier))) stats.units[index_of(tier)] += chunk.num_units;
    }
  }
  return stats;
}

}  // namespace radixkv
