// Looking at a subtree.
#include <algorithm>
#include <unordered_map>

#include "index/radix_index.h"

namespace radixkv {

// Parents first. What was dropped, and what is only there for a pin or a mark, is not kept.
std::vector<ChunkId> RadixIndex::kept_below(NamespaceId space, const TokenView& prefix) const {
  const Point point = walk(space, prefix).point;
  std::vector<ChunkId> below;
  if (point.position < prefix.size()) return below;
  collect(point.node, point.position, below);
  constexpr std::uint8_t kAnyTier = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  std::erase_if(below, [this](ChunkId id) {
    return !chunks_.has(id, kAnyTier) || chunks_.has(id, state::kDropped);
  });
  return below;
}

SubtreeStats RadixIndex::subtree_stats(NamespaceId space, const TokenView& prefix) const {
  SubtreeStats stats;
  for (const ChunkId id : kept_below(space, prefix)) {
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

Subtree RadixIndex::walk_subtree(NamespaceId space, const TokenView& prefix, bool with_path) const {
  std::vector<ChunkId> ids = kept_below(space, prefix);
  if (with_path && !ids.empty()) {
    std::vector<ChunkId> path;
    ChunkId above = chunks_[ids.front()].parent;  // the same for all that have none among them
    for (; above != kNoChunk; above = chunks_[above].parent) path.push_back(above);
    ids.insert(ids.begin(), path.rbegin(), path.rend());
  }
  Subtree subtree;
  std::unordered_map<ChunkId, std::int64_t> places;
  for (const ChunkId id : ids) {
    const auto parent = places.find(chunks_[id].parent);
    subtree.parent_index.push_back(parent == places.end() ? -1 : parent->second);
    places.emplace(id, static_cast<std::int64_t>(subtree.chunks.size()));
    subtree.chunks.push_back(ref(id));
    subtree.time.push_back(chunks_[id].time);
    subtree.num_uses.push_back(chunks_[id].num_uses);
    append_tokens(id, subtree.tokens);
  }
  return subtree;
}

}  // namespace radixkv
