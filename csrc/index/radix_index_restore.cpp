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
  TierState& disk = tier(Tier::kDisk);
  const std::size_t count = restored.parent_index.size();
  const std::vector<std::uint64_t> token_begin = check_restored(restored, span_tokens());
  if (disk.num_extents > 0) {
    throw std::invalid_argument("restore_disk: expected an empty disk tier, it has " +
                                std::to_string(disk.num_extents) + " chunks");
  }
  std::vector<Extent> extents(count);
  for (std::size_t i = 0; i < count; ++i) {
    extents[i] = {restored.disk_offset[i], restored.num_units[i]};
  }
  disk.extents.occupy(extents);
  disk.num_extents = static_cast<std::uint32_t>(count);

  // The first child goes on its parent's chain, so that a prompt becomes one long run again.
  std::vector<std::size_t> next_on_chain(count, kNone);
  std::vector<bool> is_first_child(count, false);
  for (std::size_t i = 0; i < count; ++i) {
    if (restored.parent_index[i] < 0) continue;
    const auto parent = static_cast<std::size_t>(restored.parent_index[i]);
    if (next_on_chain[parent] != kNone) continue;
    next_on_chain[parent] = i;
    is_first_child[i] = true;
  }
  std::vector<ChunkId> ids(count, kNoChunk);
  std::vector<std::size_t> chain;
  for (std::size_t i = 0; i < count; ++i) {
    if (is_first_child[i]) continue;
    chain.clear();
    for (std::size_t at = i; at != kNone; at = next_on_chain[at]) chain.push_back(at);
    restore_chain(restored, chain, token_begin, ids);
  }
}

// Puts chunks that follow each other on one path into the tree. Their first one's parent is there
// already.
void RadixIndex::restore_chain(const RestoredChunks& restored, std::span<const std::size_t> chain,
                               std::span<const std::uint64_t> token_begin,
                               std::vector<ChunkId>& ids) {
  std::vector<Token> tokens;
  for (const std::size_t at : chain) {
    const auto own = restored.tokens.subspan(token_begin[at], restored.num_tokens[at]);
    tokens.insert(tokens.end(), own.begin(), own.end());
  }
  const std::int64_t parent_index = restored.parent_index[chain.front()];
  const auto space_index = static_cast<std::size_t>(restored.namespace_index[chain.front()]);
  ChunkId parent = kNoChunk;
  Path path{{root_of(find_namespace(restored.digests[space_index])), 0}, {}};
  if (parent_index >= 0) {
    parent = ids[static_cast<std::size_t>(parent_index)];
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
    const std::size_t at = chain[i];
    const ChunkId id = path_ids[i];
    const Extent extent{restored.disk_offset[at], restored.num_units[at]};
    ids[at] = id;
    if (chunks_.has(id, state::kept(Tier::kDisk))) {
      give_back_extent(Tier::kDisk, extent);
      continue;
    }
    begin_writing(id, Tier::kDisk, extent.offset, restored.num_units[at]);
    write_time(id, restored.time[at]);
    finish_writing(id, Tier::kDisk);
  }
}

}  // namespace radixkv
