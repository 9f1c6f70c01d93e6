// What a policy that learns is told: what left a tier, and what of that comes back.
#include <algorithm>

#include "core/checksum.h"
#include "index/radix_index.h"

namespace radixkv {

// Tells chunks apart, mostly: by their tokens, where they are, and the last tokens before them.
std::uint64_t RadixIndex::content_of(ChunkId id) const {
  std::vector<Token> tokens;
  const Chunk& chunk = chunks_[id];
  if (chunk.parent != kNoChunk) append_tokens(chunk.parent, tokens);
  append_tokens(id, tokens);
  tokens.push_back(chunk.span);
  return xxh3_64(tokens.data(), tokens.size() * sizeof(Token));
}

// REQUIRES: the chunk is about to be evicted.
void RadixIndex::note_ghost(ChunkId id, Tier which) {
  if (!config_.policy->learns) return;
  tier(which).ghosts.note_left(content_of(id), chunks_[id].num_uses > 0, tier(which).num_ready);
}

// REQUIRES: the policy learns, the chunk comes to the tier.
void RadixIndex::know_again(ChunkId id, Tier which) {
  const bool is_known = tier(which).ghosts.note_came(content_of(id), tier(which).num_ready);
  if (is_known && chunks_[id].num_uses == 0) set_uses(id, 1);
}

}  // namespace radixkv
