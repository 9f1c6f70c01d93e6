// What remote tiers ask for: content keys of chunks, and chunks to write there.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/chunk_key.h"
#include "index/radix_index.h"

namespace radixkv {
namespace {

Digest root_key_of(const NamespaceDigest& digest) {
  Digest bytes;
  std::ranges::transform(digest, bytes.begin(), [](std::uint8_t byte) { return std::byte{byte}; });
  return root_key(bytes);
}

}  // namespace

// Hashed once in a chunk's life; a chunk's id and generation say whether its key is known.
const Digest& RadixIndex::key_of(ChunkId id) {
  if (keys_.size() < chunks_.num_slots()) keys_.resize(chunks_.num_slots());
  const auto is_known = [this](ChunkId chunk) {
    return keys_[chunk].is_known && keys_[chunk].generation == chunks_[chunk].generation;
  };
  std::vector<ChunkId> unknown;
  ChunkId above = id;
  while (above != kNoChunk && !is_known(above)) {
    unknown.push_back(above);
    above = chunks_[above].parent;
  }
  Digest key = above == kNoChunk ? root_key_of(digest_of(id)) : keys_[above].key;
  std::vector<Token> tokens;
  for (auto chunk = unknown.rbegin(); chunk != unknown.rend(); ++chunk) {
    tokens.clear();
    append_tokens(*chunk, tokens);
    key = chunk_key(key, tokens);
    keys_[*chunk] = {key, chunks_[*chunk].generation, true};
  }
  return keys_[id].key;
}

Digest RadixIndex::parent_key(const ChunkRef& chunk) {
  if (!chunks_.is_current(chunk.id, chunk.generation)) {
    throw std::invalid_argument("chunks: chunk " + std::to_string(chunk.id) + " has gone");
  }
  const ChunkId parent = chunks_[chunk.id].parent;
  return parent == kNoChunk ? root_key_of(digest_of(chunk.id)) : key_of(parent);
}

Digest RadixIndex::prefix_key(NamespaceId space, const Pin& pin) {
  const std::uint32_t end = pin.num_tokens / span_tokens() * span_tokens();
  ChunkId id = pin.last;
  while (id != kNoChunk && chunks_.end(id) > end) id = chunks_[id].parent;
  if (id != kNoChunk) return key_of(id);
  return root_key_of(roots_[root_by_node_.at(root_of(space))].second);
}

PutReservation RadixIndex::reserve_put(std::span<const ChunkRef> chunks) {
  PutReservation result;
  for (const ChunkRef& chunk : chunks) {
    const bool is_there = chunks_.is_current(chunk.id, chunk.generation) &&
                          chunks_.is_visible(chunk.id, Tier::kMemory);
    if (!is_there) break;
    if (result.chunks.empty()) result.parent_key = parent_key(chunk);
    add_use(chunk.id, Tier::kMemory);
    result.chunks.push_back(ref(chunk.id));
    append_tokens(chunk.id, result.tokens);
  }
  return result;
}

}  // namespace radixkv
