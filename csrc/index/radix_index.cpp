#include "index/radix_index.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "index/run_finder.h"

namespace radixkv {

namespace {

// A disk's header region has room for one chunk in four units.
constexpr std::uint32_t kUnitsPerHeader = 4;

std::uint32_t most_chunks(const IndexConfig& config, Tier tier) {
  if (tier == Tier::kMemory) return 0xFFFFFFFFu;
  return config.num_units[index_of(tier)] / kUnitsPerHeader;
}

constexpr std::uint64_t kMostExpected = 1 << 24;

// As many as full chunks fit. A tier without end expects nothing.
std::uint64_t expected_chunks(const IndexConfig& config, Tier tier) {
  const std::int64_t chunk_bytes = config.token_bytes * config.chunk_tokens;
  const std::int64_t chunk_units = (chunk_bytes + config.unit_bytes - 1) / config.unit_bytes;
  const std::uint32_t num_units = config.num_units[index_of(tier)];
  if (num_units >= kEndless) return 0;
  return std::min(num_units / static_cast<std::uint64_t>(chunk_units), kMostExpected);
}

// In all, and some for tails.
std::uint32_t expected_chunks(const IndexConfig& config) {
  std::uint64_t sum = 0;
  for (const Tier tier : kTiers) sum += expected_chunks(config, tier) * 5 / 4;
  return static_cast<std::uint32_t>(std::min(sum, kMostExpected));
}

std::uint64_t expected_ghosts(const IndexConfig& config, Tier tier) {
  return config.policy->learns ? expected_chunks(config, tier) : 0;
}

IndexConfig checked(const IndexConfig& config) {
  const auto require = [](bool holds, const char* wanted, std::int64_t got) {
    if (!holds) throw std::invalid_argument(wanted + std::string(", got ") + std::to_string(got));
  };
  require(config.chunk_tokens >= 1 && config.chunk_tokens <= 512, "chunk_tokens: expected 1 … 512",
          config.chunk_tokens);
  require(config.token_bytes >= 1, "token_bytes: expected at least 1", config.token_bytes);
  require(config.unit_bytes >= 1, "unit_bytes: expected at least 1", config.unit_bytes);
  require(config.token_bytes * config.chunk_tokens <= config.unit_bytes * 0xFFFF,
          "unit_bytes: expected at most 65535 units in a chunk", config.unit_bytes);
  if (!(config.max_pinned >= 0 && config.max_pinned <= 1)) {
    throw std::invalid_argument("max_pinned: expected 0 … 1, got " +
                                std::to_string(config.max_pinned));
  }
  return config;
}

}  // namespace

RadixIndex::TierState::TierState(ChunkTable& chunks, const MarkTable& marks, Tier tier,
                                 const IndexConfig& config)
    : extents(config.num_units[index_of(tier)]),
      ghosts(expected_ghosts(config, tier)),
      leaves(chunks, marks, tier, *config.policy, ghosts),
      max_chunks(most_chunks(config, tier)) {}

RadixIndex::RadixIndex(const IndexConfig& config)
    : config_(checked(config)),
      chunks_(config.chunk_tokens, expected_chunks(config)),
      tiers_{TierState(chunks_, marks_, Tier::kMemory, config),
             TierState(chunks_, marks_, Tier::kDisk, config)} {
  find_namespace(NamespaceDigest{});
}

NamespaceId RadixIndex::find_namespace(const NamespaceDigest& digest) {
  const auto [entry, is_new] = root_by_digest_.try_emplace(digest, roots_.size());
  if (is_new) {
    roots_.emplace_back(tree_.add_root(), digest);
    root_by_node_.emplace(roots_.back().first, entry->second);
    if (changes_.is_on()) changes_.add_space(roots_.back().first, digest);
  }
  return roots_[entry->second].first;
}

}  // namespace radixkv
