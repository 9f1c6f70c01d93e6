// ChangeLog writes down what becomes of an index, as entries that SavedIndex reads:
//
//   space(number, digest)   chunk(id, parent, space, tokens)   kept(id, tier, extent)
//   use(id, uses, time)     left(id, tier)      mark(space, prefix, all it says)      totals(…)
//
// A chunk is told of when it is first ready on a tier, and forgotten once it has left all. The last
// entry about a thing counts, so a saved index and what happened to it since are one sequence.
// Entries are little-endian, each a multiple of 4 bytes. Thread safety: one thread.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/types.h"
#include "index/index_values.h"

namespace radixkv {

static_assert(std::endian::native == std::endian::little);

enum class ChangeKind : std::uint8_t {
  kSpace = 1,
  kChunk = 2,
  kKept = 3,
  kLeft = 4,
  kUse = 5,
  kMark = 6,
  kTotals = 7,
};

// Opens every entry.
struct ChangeHead {
  ChangeKind kind;
  std::uint8_t tier;    // kept, left
  std::uint16_t count;  // chunk: tokens, kept: units, use: uses
  std::uint32_t id;     // of the chunk, or the number of the namespace
};
static_assert(sizeof(ChangeHead) == 8);

// The fixed part of a mark's entry. The prefix follows, then each pin: its end (8 bytes), the
// length of its owner's name (4) and the name, filled up to 4 bytes.
struct MarkHead {
  std::uint32_t num_tokens;
  std::int32_t priority;
  std::uint64_t time_to_live;
  std::array<std::uint64_t, kNumTiers> quota_units;
  std::uint32_t num_pins;
  std::uint32_t said;  // bits: priority, time_to_live, quota_units[0], quota_units[1]
};
static_assert(sizeof(MarkHead) == 40);

// What an index has counted since its start.
struct IndexTotals {
  std::uint64_t now = 0;
  std::uint64_t clock = 0;
  std::uint64_t num_dropped = 0;
  std::array<std::uint64_t, kNumTiers> num_evicted = {0, 0};
  std::array<std::uint64_t, kNumTiers> num_failed = {0, 0};
};

class ChangeLog {
 public:
  void begin() { is_on_ = true; }
  void end() {
    is_on_ = false;
    bytes_.clear();
  }
  bool is_on() const { return is_on_; }

  void add_space(NamespaceId space, const NamespaceDigest& digest);
  // `parent`: kNoChunk for the first of a prompt. Returns where its tokens go.
  void add_chunk(ChunkId id, ChunkId parent, NamespaceId space, std::span<const Token> tokens);
  void add_kept(ChunkId id, Tier tier, std::uint32_t offset, std::uint16_t num_units);
  void add_left(ChunkId id, Tier tier);
  void add_use(ChunkId id, std::uint16_t num_uses, std::uint64_t time);
  void add_mark(NamespaceId space, const MarkValues& mark);
  void add_totals(const IndexTotals& totals);

  std::size_t num_bytes() const { return bytes_.size(); }
  // Everything since the last call, in order.
  std::vector<std::byte> take() { return std::exchange(bytes_, {}); }

 private:
  template <class Value>
  void put(const Value& value) {
    static_assert(std::is_trivially_copyable_v<Value>);
    put_bytes(&value, sizeof value);
  }
  void put_bytes(const void* data, std::size_t num_bytes);

  bool is_on_ = false;
  std::vector<std::byte> bytes_;
};

}  // namespace radixkv
