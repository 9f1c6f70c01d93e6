// Holding: pins of handles, uses of commands.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

Pin RadixIndex::acquire(NamespaceId space, const TokenView& tokens,
                        std::optional<std::uint64_t> time) {
  const Match found = match(space, tokens);
  if (found.last == kNoChunk) return {};
  ++pins_[found.last];
  ++num_pins_;
  for (NodeId node = chunks_.node(found.last); node != kNoNode; node = tree_[node].parent) {
    ++tree_[node].num_pins;
  }
  if (time) note_use(found.last, *time);
  return {found.num_tokens, found.last};
}

void RadixIndex::release(const Pin& pin) {
  if (pin.last == kNoChunk) return;
  const auto count = pins_.find(pin.last);
  if (--count->second == 0) pins_.erase(count);
  --num_pins_;
  for (NodeId node = chunks_.node(pin.last); node != kNoNode; node = tree_[node].parent) {
    --tree_[node].num_pins;
  }
  settle(pin.last);
}

void RadixIndex::touch(const Pin& pin, std::uint64_t time) {
  if (pin.last != kNoChunk) note_use(pin.last, time);
}

// A pin at or below the chunk. A node counts pins, so only where it has some is there more to ask:
// they may be of chunks that end in the same node but not below this one.
bool RadixIndex::is_pinned(ChunkId id) const {
  const NodeId node = chunks_.node(id);
  std::uint32_t num_pins = tree_[node].num_pins;
  if (num_pins == 0) return false;
  if (pins_.contains(id)) return true;
  if (chunks_.is_tail(id)) return false;
  const std::uint32_t end = chunks_.end(id);
  for (const auto& [pinned, count] : pins_) {
    if (chunks_.node(pinned) == node && chunks_.end(pinned) <= end) num_pins -= count;
  }
  return num_pins > 0;
}

// A pin that covered `id` ended: chunks that waited for it leave, and leaves that it held may be
// evicted.
void RadixIndex::settle(ChunkId id) {
  while (id != kNoChunk && !is_pinned(id)) {
    const ChunkId parent = chunks_[id].parent;
    const std::uint32_t generation = chunks_[id].generation;
    if (chunks_.has(id, state::kDropped)) {
      vacate_everywhere(id);
    } else if (chunks_.is_tail(id)) {
      for (const Tier tier : kTiers) {
        if (chunks_.is_current(id, generation)) leave_if_covered(id, tier);
      }
    }
    if (chunks_.is_current(id, generation)) remove_unless_needed(id);
    if (chunks_.is_current(id, generation)) break;
    id = parent;
  }
  for (const Tier which : kTiers) {
    if (tier(which).held.empty()) continue;
    ChunkId kept = id;
    while (kept != kNoChunk && !chunks_.has(kept, state::kept(which))) kept = chunks_[kept].parent;
    if (kept != kNoChunk) queue_if_leaf(kept, which);
  }
}

std::vector<ChunkRef> RadixIndex::use(const Pin& pin, std::uint32_t first_token,
                                      std::uint32_t num_tokens) {
  if (first_token > pin.num_tokens || num_tokens > pin.num_tokens - first_token) {
    throw std::invalid_argument("num_tokens: expected a range within the handle's " +
                                std::to_string(pin.num_tokens) + " tokens, got " +
                                std::to_string(first_token) + " + " + std::to_string(num_tokens));
  }
  if (num_tokens == 0) return {};
  const std::uint32_t end = first_token + num_tokens;
  std::vector<ChunkRef> slices;
  std::uint32_t limit = end;
  for (ChunkId id = pin.last; id != kNoChunk && limit > first_token; id = chunks_[id].parent) {
    const std::uint32_t start = chunks_.start(id);
    if (start >= end) continue;
    if (!chunks_.has(id, state::ready(Tier::kMemory))) {
      throw std::invalid_argument("num_tokens: expected tokens that are ready in memory, token " +
                                  std::to_string(start) + " is not");
    }
    const std::uint32_t first = std::max(first_token, start) - start;
    slices.push_back(slice(id, first, limit - start - first));
    limit = start;
  }
  std::reverse(slices.begin(), slices.end());
  for (const ChunkRef& used : slices) add_use(used.id, Tier::kMemory);
  return slices;
}

void RadixIndex::release_uses(std::span<const ChunkRef> slices) {
  require_uses(slices, Tier::kMemory, false);
  for (const ChunkRef& used : slices) end_reading(used, Tier::kMemory);
}

}  // namespace radixkv
