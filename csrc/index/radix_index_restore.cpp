// Building the index from what a disk held when it was opened.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

namespace {

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

[[noreturn]] void refuse(const char* argument, const std::string& wanted, std::int64_t got,
                         std::size_t at) {
  throw std::invalid_argument(std::string(argument) + ": expected " + wanted + ", got " +
                              std::to_string(got) + " for chunk " + std::to_string(at));
}

// Throws where an entry contradicts another; returns where each chunk's tokens begin.
std::vector<std::uint64_t> check_restored(const RestoredChunks& restored,
                                          std::uint32_t chunk_tokens) {
  const std::size_t count = restored.parent_index.size();
  std::vector<std::uint64_t> token_begin(count + 1, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t parent = restored.parent_index[i];
    const std::int32_t space = restored.namespace_index[i];
    const std::uint16_t num_tokens = restored.num_tokens[i];
    if (parent < -1 || parent >= static_cast<std::int64_t>(i)) {
      refuse("parent_index", "an earlier chunk or -1", parent, i);
    }
    if (space < 0 || static_cast<std::size_t>(space) >= restored.digests.size()) {
      refuse("namespace_index", "an index into digests", space, i);
    }
    if (num_tokens < 1 || num_tokens > chunk_tokens) {
      refuse("num_tokens", "1 … " + std::to_string(chunk_tokens), num_tokens, i);
    }
    if (restored.num_units[i] < 1) refuse("num_units", "at least 1", 0, i);
    if (parent >= 0) {
      const auto above = static_cast<std::size_t>(parent);
      if (restored.num_tokens[above] != chunk_tokens) {
        refuse("parent_index", "a full chunk", parent, i);
      }
      if (restored.namespace_index[above] != space) {
        refuse("namespace_index", "the parent's", space, i);
      }
    }
    token_begin[i + 1] = token_begin[i] + num_tokens;
  }
  if (token_begin[count] != restored.tokens.size()) {
    throw std::invalid_argument("tokens: expected " + std::to_string(token_begin[count]) +
                                ", got " + std::to_string(restored.tokens.size()));
  }
  return token_begin;
}

}  // namespace

void RadixIndex::restore_disk(const RestoredChunks& restored) {
  const std::vector<std::uint64_t> token_begin = check_restored(restored, span_tokens());
  std::vector<SavedChunk> chunks(restored.parent_index.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    chunks[i] = {.tokens = restored.tokens.data() + token_begin[i],
                 .parent = restored.parent_index[i],
                 .space = restored.namespace_index[i],
                 .num_tokens = restored.num_tokens[i],
                 .num_units = restored.num_units[i],
                 .num_uses = 0,
                 .time = restored.time[i],
                 .offset = {kNoExtent, restored.disk_offset[i]}};
  }
  restore_chunks(chunks, restored.digests);
}

// Takes the extents that the chunks have on the tier.
void RadixIndex::occupy(Tier which, std::span<const SavedChunk> chunks) {
  TierState& tier = this->tier(which);
  std::vector<Extent> extents;
  for (const SavedChunk& chunk : chunks) {
    const std::uint32_t offset = chunk.offset[index_of(which)];
    if (offset != kNoExtent) extents.push_back({offset, chunk.num_units});
  }
  if (extents.empty()) return;
  if (tier.num_extents > 0) {
    throw std::invalid_argument("restore: expected an empty tier, it has " +
                                std::to_string(tier.num_extents) + " chunks");
  }
  tier.extents.occupy(extents);
  tier.num_extents = static_cast<std::uint32_t>(extents.size());
}

void RadixIndex::restore_chunks(std::span<const SavedChunk> chunks,
                                std::span<const NamespaceDigest> digests) {
  for (const Tier which : kTiers) occupy(which, chunks);
  // The first child goes on its parent's chain, so that a prompt becomes one long run again.
  std::vector<std::size_t> next_on_chain(chunks.size(), kNone);
  std::vector<bool> is_first_child(chunks.size(), false);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (chunks[i].parent < 0) continue;
    const auto parent = static_cast<std::size_t>(chunks[i].parent);
    if (next_on_chain[parent] != kNone) continue;
    next_on_chain[parent] = i;
    is_first_child[i] = true;
  }
  std::vector<ChunkId> ids(chunks.size(), kNoChunk);
  std::vector<std::size_t> chain;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (is_first_child[i]) continue;
    chain.clear();
    for (std::size_t at = i; at != kNone; at = next_on_chain[at]) chain.push_back(at);
    restore_chain(chunks, digests, chain, ids);
  }
}

// Puts chunks that follow each other on one path into the tree. Their first one's parent is there
// already.
void RadixIndex::restore_chain(std::span<const SavedChunk> chunks,
                               std::span<const NamespaceDigest> digests,
                               std::span<const std::size_t> chain, std::vector<ChunkId>& ids) {
  std::vector<Token> tokens;
  for (const std::size_t at : chain) {
    tokens.insert(tokens.end(), chunks[at].tokens, chunks[at].tokens + chunks[at].num_tokens);
  }
  const SavedChunk& first = chunks[chain.front()];
  ChunkId parent = kNoChunk;
  Path path{{root_of(find_namespace(digests[static_cast<std::size_t>(first.space)])), 0}, {}};
  if (first.parent >= 0) {
    parent = ids[static_cast<std::size_t>(first.parent)];
    path.point = {chunks_.node(parent), chunks_.end(parent)};
  }
  const std::uint32_t start = path.point.position;
  const TokenView view(tokens.data(), tokens.size(), TokenType::kUint32);
  walk_on(view, start, path);
  const auto end = start + static_cast<std::uint32_t>(tokens.size());
  const std::uint32_t known = path.point.position;
  TokenRun fresh;
  if (end > known) fresh = TokenRun(arena_, view, known - start, end - known);
  const std::vector<ChunkId> path_ids = make_records(path, fresh, end, parent);
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const SavedChunk& chunk = chunks[chain[i]];
    const ChunkId id = path_ids[i];
    ids[chain[i]] = id;
    chunks_[id].num_uses = std::max(chunks_[id].num_uses, chunk.num_uses);
    const bool is_on_disk = restore_extent(id, Tier::kDisk, chunk);
    const bool is_in_memory = restore_extent(id, Tier::kMemory, chunk);
    // The disk comes first: what it has need not be spilled. A tail may leave it again at once.
    if (is_on_disk) finish_writing(id, Tier::kDisk);
    if (is_in_memory) finish_writing(id, Tier::kMemory);
  }
}

// Gives a chunk the extent that it had on the tier; false where it had none, or has one already.
bool RadixIndex::restore_extent(ChunkId id, Tier which, const SavedChunk& chunk) {
  const std::uint32_t offset = chunk.offset[index_of(which)];
  if (offset == kNoExtent) return false;
  if (chunks_.has(id, state::kept(which))) {
    give_back_extent(which, {offset, chunk.num_units});
    return false;
  }
  begin_writing(id, which, offset, chunk.num_units);
  write_time(id, chunk.time);
  return true;
}

}  // namespace radixkv
