// ChunkFollower knows what an index keeps by the index's events alone (event_log.h).
//
//   place (namespace, key of the chunk before) ──▶ the chunks that go on from there
//
// It has no tree: a chunk is found by its place and its tokens, so the order of events does not
// matter beyond their own, and a chunk whose parent was stored before anybody listened is kept but
// never found. Thread safety: const calls may run beside each other, apply() needs it alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "index/chunk_table.h"
#include "index/event_log.h"
#include "index/tokens.h"

namespace radixkv {

class ChunkFollower {
 public:
  // How much of a prompt is kept: tokens on any tier, and tokens in memory.
  struct Kept {
    std::size_t num_tokens = 0;
    std::size_t num_memory_tokens = 0;
  };

  explicit ChunkFollower(std::uint32_t chunk_tokens) : chunk_tokens_(chunk_tokens) {}

  // `tokens`: those that were taken with the event. Throws std::invalid_argument, changing nothing,
  // where the event's own are not among them or more than a chunk's.
  void apply(const IndexEvent& event, std::span<const Token> tokens);

  Kept match(std::uint32_t space, const TokenView& tokens) const;

  // Chunks on any tier.
  std::size_t num_chunks() const { return chunks_.size(); }

 private:
  using Key = std::uint64_t;

  struct Place {
    std::uint32_t space = 0;
    bool is_start = true;  // of a prompt; there is no chunk before
    Key parent = 0;
    bool operator==(const Place&) const = default;
  };
  struct Kin {
    Place place;
    std::vector<Token> tokens;
    std::uint8_t tiers = 0;  // a bit each
  };
  using Named = std::unordered_map<Key, Kin>;
  using ByHash = std::unordered_map<std::uint64_t, std::vector<Key>>;

  static std::uint64_t hash(const Place& place, std::span<const Token> tokens);
  static void take_out(ByHash& table, std::uint64_t hash, Key key);
  void store(Key key, const IndexEvent& event, std::span<const Token> tokens);
  const Named::value_type* find_full(const Place& place, std::span<const Token> tokens) const;
  std::size_t reach(const Place& place, std::span<const Token> tokens, std::uint8_t tiers) const;

  std::uint32_t chunk_tokens_;
  Named chunks_;
  ByHash full_;       // by place and tokens
  ByHash beginning_;  // by place and first token, tails too
};

}  // namespace radixkv
