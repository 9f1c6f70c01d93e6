// What callers of RadixIndex hand over and get back: plain values, each explained here once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/chunk_key.h"
#include "core/types.h"
#include "index/chunk_table.h"
#include "index/eviction_policy.h"

namespace radixkv {

using NamespaceId = std::uint32_t;  // the root of the namespace's tree
using NamespaceDigest = std::array<std::uint8_t, 16>;

// A digest's bytes are as good as random.
struct DigestHash {
  std::size_t operator()(const NamespaceDigest& digest) const {
    std::size_t result;
    std::memcpy(&result, digest.data(), sizeof result);
    return result;
  }
};

// Capacity, in units, of a tier that has no end.
inline constexpr std::uint32_t kEndless = 0xFFFFFFF0u;

struct IndexConfig {
  std::uint32_t chunk_tokens = 64;
  std::int64_t token_bytes = 1;
  std::int64_t unit_bytes = 4096;
  std::array<std::uint32_t, kNumTiers> num_units = {0, 0};  // capacity of each tier
  std::uint32_t tail_slack = 4;
  const EvictionPolicy* policy = &kLru;
  double max_pinned = 0.5;  // share of a tier that pinned subtrees may have
};

// More of a tier would be pinned than may be.
struct PinLimitError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a match found. It pins nothing: the chunks may be gone a call later.
struct Match {
  std::uint32_t num_tokens = 0;         // longest prefix that is ready, each chunk on some tier
  std::uint32_t num_memory_tokens = 0;  // longest prefix that is ready in memory
  ChunkId last = kNoChunk;              // the chunk that holds the last of `num_tokens`
  std::uint32_t generation = 0;         // of `last`
};

// A match that stays. Made by acquire(), ended by release().
struct Pin {
  std::uint32_t num_tokens = 0;
  ChunkId last = kNoChunk;
};

// What could be reserved, parents first, and how many units the rest would have needed.
struct Reservation {
  std::vector<ChunkRef> chunks;
  std::uint64_t missing_units = 0;
};

// A run of chunks of one path to write to disk, with their tokens one after the other.
struct SpillReservation {
  std::vector<ChunkRef> chunks;
  std::vector<Token> tokens;
  NamespaceDigest digest = {};
  std::uint64_t missing_units = 0;
};

// Chunks of one path to write to a remote tier, with their tokens one after the other.
struct PutReservation {
  std::vector<ChunkRef> chunks;
  std::vector<Token> tokens;
  Digest parent_key = {};  // of the chunk before the first
};

// What left the tiers because its time was over.
struct Expired {
  std::array<std::vector<ChunkRef>, kNumTiers> chunks;  // by tier, children before their parents
};

// What a mark says (index/mark_table.h), and where it lies.
struct MarkValues {
  NamespaceDigest digest = {};
  std::vector<Token> prefix;
  std::optional<std::int32_t> priority;
  std::optional<std::uint64_t> time_to_live;
  std::array<std::optional<std::uint64_t>, kNumTiers> quota_units;
  std::array<std::uint64_t, kNumTiers> charged_units = {0, 0};  // where it has a quota
  std::vector<std::pair<std::string, std::uint64_t>> pins;      // owner and end, or kForever
};

// How much of a subtree is kept.
struct SubtreeStats {
  std::uint64_t chunks = 0;    // on any tier
  std::uint64_t tokens = 0;    // of these chunks
  std::uint64_t hits = 0;      // admissions that ended on one of them, after the one that stored it
  std::uint64_t last_use = 0;  // the youngest admission
  std::array<std::uint64_t, kNumTiers> ready_chunks = {0, 0};
  std::array<std::uint64_t, kNumTiers> units = {0, 0};
};

// The chunks of a subtree, parents before their children. All have one entry a chunk, but `tokens`,
// which has theirs one after the other.
struct Subtree {
  std::vector<ChunkRef> chunks;
  std::vector<std::int64_t> parent_index;  // -1: its parent, if any, is not among them
  std::vector<Token> tokens;
  std::vector<std::uint64_t> time;
  std::vector<std::uint16_t> num_uses;
};

struct TierStats {
  std::uint64_t ready_chunks = 0;
  std::uint64_t writing_chunks = 0;
  std::uint64_t used_units = 0;  // with those in limbo
  std::uint64_t total_units = 0;
  std::uint64_t limbo_extents = 0;
  std::uint64_t uses = 0;
  std::uint64_t evicted_chunks = 0;  // the rest counts since the start
  std::uint64_t failed_chunks = 0;
};

struct IndexStats {
  std::uint64_t chunks = 0;
  std::uint64_t nodes = 0;  // with one root for each namespace
  std::uint64_t tokens = 0;
  std::uint64_t pins = 0;   // of handles
  std::uint64_t marks = 0;  // prefixes about which something was said
  std::uint64_t spill_queue = 0;
  std::uint64_t dropped_chunks = 0;  // since the start
  std::array<TierStats, kNumTiers> tiers;
};

// Chunks that a disk held when it was opened. All spans have one entry a chunk, `tokens` has theirs
// one after the other. A parent comes before its children; -1 is the root of the chunk's namespace.
struct RestoredChunks {
  std::span<const std::int64_t> parent_index;
  std::span<const std::uint16_t> num_tokens;
  std::span<const Token> tokens;
  std::span<const std::uint32_t> disk_offset;
  std::span<const std::uint16_t> num_units;
  std::span<const std::int32_t> namespace_index;
  std::span<const NamespaceDigest> digests;
  std::span<const std::uint64_t> time;
};

// A chunk to put into an index that does not have it, ready on the tiers where it has an extent.
struct SavedChunk {
  const Token* tokens = nullptr;  // not owned
  std::int64_t parent = -1;       // an earlier one, or -1 for the first of a prompt
  std::int32_t space = 0;         // index into the digests that come with it
  std::uint16_t num_tokens = 0;
  std::uint16_t num_units = 0;
  std::uint16_t num_uses = 0;
  std::uint64_t time = 0;
  std::array<std::uint32_t, kNumTiers> offset = {kNoExtent, kNoExtent};  // kNoExtent: not there

  bool is_kept() const {
    return offset[index_of(Tier::kMemory)] != kNoExtent ||
           offset[index_of(Tier::kDisk)] != kNoExtent;
  }
};

}  // namespace radixkv
