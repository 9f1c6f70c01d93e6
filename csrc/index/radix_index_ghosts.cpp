// What a policy that learns is told: what left a tier, and what of that comes back.
#include <algorithm>

#include "core/checksum.h"
#include "index/radix_index.h"

namespace radixkv {

// Tells chunks apart, mostly: by their last tokens, and where they are.
std::uint64_t RadixIndex::content_of(ChunkId id) const {
  constexpr std::uint32_t kMostTokens = 32;
  constexpr std::uint64_t kOdd = 0x9E3779B97F4A7C15ull;
  const std::uint32_t end = chunks_.end(id);
  const std::uint32_t start = std::max(chunks_.start(id), end - std::min(end, kMostTokens));
  const Node& node = tree_[chunks_.node(id)];
  std::uint64_t hash = 0;
  if (node.start <= start) {
    hash = xxh3_64(node.run.data() + (start - node.start), (end - start) * sizeof(Token));
  } else {
    std::vector<Token> tokens;
    append_tokens(id, tokens);
    hash = xxh3_64(tokens.data() + tokens.size() - (end - start), (end - start) * sizeof(Token));
  }
  return hash ^ (chunks_[id].span + 1) * kOdd;
}

// REQUIRES: the chunk is about to be evicted.
void RadixIndex::note_ghost(ChunkId id, Tier which) {
  if (!config_.policy->learns) return;
  const Chunk& chunk = chunks_[id];
  if (!chunk.is_sampled) return;
  tier(which).ghosts.note_left(content_of(id), chunk.num_uses > 0, tier(which).num_ready);
}

// REQUIRES: the policy learns, the chunk comes to the tier.
void RadixIndex::know_again(ChunkId id, Tier which) {
  if (!chunks_[id].is_sampled || tier(which).ghosts.is_empty()) return;
  const bool is_known = tier(which).ghosts.note_came(content_of(id));
  if (is_known && chunks_[id].num_uses == 0) set_uses(id, 1);
}

}  // namespace radixkv
