#include "index/chunk_follower.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string_view>

namespace radixkv {

namespace {

constexpr std::uint8_t kMemoryBit = 1u << index_of(Tier::kMemory);
constexpr std::uint8_t kAnyTier = kMemoryBit | 1u << index_of(Tier::kDisk);

std::uint64_t key_of(std::uint32_t generation, std::uint32_t id) {
  return std::uint64_t{generation} << 32 | id;
}

// The caller's tokens up to the first that is no token id: nothing kept goes on behind that.
std::vector<Token> token_ids(const TokenView& tokens) {
  std::vector<Token> result;
  result.reserve(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::optional<Token> token = tokens.at(i);
    if (!token) break;
    result.push_back(*token);
  }
  return result;
}

std::size_t count_equal(std::span<const Token> a, std::span<const Token> b) {
  const std::size_t most = std::min(a.size(), b.size());
  const auto first = a.begin();
  return static_cast<std::size_t>(
      std::mismatch(first, first + static_cast<std::ptrdiff_t>(most), b.begin()).first - first);
}

}  // namespace

std::uint64_t ChunkFollower::hash(const Place& place, std::span<const Token> tokens) {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  const std::uint64_t above = place.parent ^ std::uint64_t{place.space} << 40;
  return std::hash<std::string_view>{}(bytes) ^ above * 0x9E3779B97F4A7C15ull;
}

void ChunkFollower::take_out(ByHash& table, std::uint64_t hash, Key key) {
  const auto at = table.find(hash);
  std::erase(at->second, key);
  if (at->second.empty()) table.erase(at);
}

void ChunkFollower::apply(const IndexEvent& event, std::span<const Token> tokens) {
  const Key key = key_of(event.generation, event.id);
  const auto tier = static_cast<std::uint8_t>(1u << event.tier);
  if (event.is_stored != 0) {
    if (event.num_tokens == 0 || event.num_tokens > chunk_tokens_ ||
        event.first_token > tokens.size() || event.num_tokens > tokens.size() - event.first_token) {
      throw std::invalid_argument("events: expected 1 … " + std::to_string(chunk_tokens_) +
                                  " tokens for each chunk, got " +
                                  std::to_string(event.num_tokens));
    }
    if (!chunks_.contains(key)) {
      store(key, event, tokens.subspan(event.first_token, event.num_tokens));
    }
    chunks_[key].tiers |= tier;
    return;
  }
  const auto found = chunks_.find(key);
  if (found == chunks_.end()) return;  // it was stored before anybody listened
  Kin& chunk = found->second;
  chunk.tiers = static_cast<std::uint8_t>(chunk.tiers & ~tier);
  if (chunk.tiers != 0) return;
  take_out(beginning_, hash(chunk.place, std::span(chunk.tokens).first(1)), key);
  if (chunk.tokens.size() == chunk_tokens_) take_out(full_, hash(chunk.place, chunk.tokens), key);
  chunks_.erase(found);
}

void ChunkFollower::store(Key key, const IndexEvent& event, std::span<const Token> tokens) {
  const bool is_start = event.parent_id == kNoChunk;
  const Place place{event.space, is_start,
                    is_start ? 0 : key_of(event.parent_generation, event.parent_id)};
  chunks_.emplace(key, Kin{place, {tokens.begin(), tokens.end()}, 0});
  beginning_[hash(place, tokens.first(1))].push_back(key);
  if (tokens.size() == chunk_tokens_) full_[hash(place, tokens)].push_back(key);
}

const ChunkFollower::Named::value_type* ChunkFollower::find_full(
    const Place& place, std::span<const Token> tokens) const {
  if (tokens.size() < chunk_tokens_) return nullptr;
  const auto found = full_.find(hash(place, tokens));
  if (found == full_.end()) return nullptr;
  for (const Key key : found->second) {
    const auto& named = *chunks_.find(key);
    if (named.second.place == place && std::ranges::equal(named.second.tokens, tokens)) {
      return &named;
    }
  }
  return nullptr;
}

// The most of these tokens that one chunk of the place begins with, on any of the tiers.
std::size_t ChunkFollower::reach(const Place& place, std::span<const Token> tokens,
                                 std::uint8_t tiers) const {
  if (tokens.empty()) return 0;
  const auto found = beginning_.find(hash(place, tokens.first(1)));
  if (found == beginning_.end()) return 0;
  std::size_t most = 0;
  for (const Key key : found->second) {
    const Kin& chunk = chunks_.at(key);
    if (chunk.place != place || (chunk.tiers & tiers) == 0) continue;
    most = std::max(most, count_equal(chunk.tokens, tokens));
  }
  return most;
}

ChunkFollower::Kept ChunkFollower::match(std::uint32_t space, const TokenView& view) const {
  const std::vector<Token> tokens = token_ids(view);
  Place place{space, true, 0};
  Kept result;
  bool all_in_memory = true;
  for (std::size_t start = 0;; start += chunk_tokens_) {
    const auto rest = std::span(tokens).subspan(start);
    const auto own = rest.first(std::min<std::size_t>(rest.size(), chunk_tokens_));
    const auto* chunk = find_full(place, own);
    if (all_in_memory && (chunk == nullptr || (chunk->second.tiers & kMemoryBit) == 0)) {
      all_in_memory = false;
      result.num_memory_tokens = start + reach(place, own, kMemoryBit);
    }
    if (chunk == nullptr) {
      result.num_tokens = start + reach(place, own, kAnyTier);
      return result;
    }
    place = {space, false, chunk->first};
  }
}

}  // namespace radixkv
