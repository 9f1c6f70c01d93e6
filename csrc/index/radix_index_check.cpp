// Looking: statistics, and a slow check of everything that has to hold.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

namespace {

void require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error("index: " + what);
}

std::string named(ChunkId id) { return "chunk " + std::to_string(id); }

}  // namespace

IndexStats RadixIndex::stats() const {
  IndexStats stats;
  stats.chunks = chunks_.num_chunks();
  stats.nodes = tree_.num_nodes();
  stats.tokens = tree_.num_tokens();
  stats.pins = num_pins_;
  stats.marks = marks_.all().size();
  stats.spill_queue = spill_queue_.size();
  stats.dropped_chunks = num_dropped_;
  for (const Tier which : kTiers) {
    const TierState& tier = this->tier(which);
    stats.tiers[index_of(which)] = {
        .ready_chunks = tier.num_ready,
        .writing_chunks = tier.num_writing,
        .used_units = tier.extents.num_units() - tier.extents.num_free(),
        .total_units = tier.extents.num_units(),
        .limbo_extents = tier.limbo.size(),
        .uses = tier.num_uses,
        .evicted_chunks = tier.num_evicted,
        .failed_chunks = tier.num_failed};
  }
  return stats;
}

void RadixIndex::check_invariants() const {
  std::vector<ChunkId> all;
  std::uint32_t num_nodes = 0;
  std::uint64_t num_tokens = 0;
  for (const auto& [root, digest] : roots_) {
    collect(root, 0, all);
    check_nodes(root, num_nodes, num_tokens);
  }
  require(num_nodes == tree_.num_nodes(), "nodes are miscounted");
  require(num_tokens == tree_.num_tokens(), "tokens are miscounted");
  require(all.size() == chunks_.num_chunks(), "chunks are miscounted");
  require(std::set<ChunkId>(all.begin(), all.end()).size() == all.size(),
          "a chunk is listed twice");
  for (const ChunkId id : all) check_chunk(id);
  for (const Tier tier : kTiers) check_tier(tier, all);
  check_marks(all);
  std::uint64_t num_pins = 0;
  for (const auto& [id, count] : pins_) num_pins += count;
  require(num_pins == num_pins_, "pins are miscounted");
  std::uint64_t num_near = 0;
  for (const auto& [node, near] : near_tails_) num_near += near.size();
  for (const ChunkId id : all) {
    if (!chunks_.is_tail(id)) continue;
    NodeId node = chunks_.node(id);
    while (tree_[node].start >= chunks_.start(id) + least_cover(id)) {
      node = tree_[node].parent;
      const auto near = near_tails_.find(node);
      require(near != near_tails_.end() && std::ranges::count(near->second, id) == 1,
              named(id) + " is not noted as a near tail");
      --num_near;
    }
  }
  require(num_near == 0, "a near tail is noted that is none");
}

void RadixIndex::check_nodes(NodeId root, std::uint32_t& num_nodes,
                             std::uint64_t& num_tokens) const {
  std::vector<NodeId> open = {root};
  while (!open.empty()) {
    const NodeId id = open.back();
    open.pop_back();
    const Node& node = tree_[id];
    const std::string name = "node " + std::to_string(id);
    ++num_nodes;
    num_tokens += node.run.size();
    require((node.parent == kNoNode) == (id == root), name + " has a wrong parent");
    require(id == root || node.run.size() > 0, name + " is empty");
    require(id == root || node.start == tree_[node.parent].end(), name + " starts elsewhere");
    require(id == root || tree_[node.parent].children.find(node.run.data()[0]) == id,
            name + " is not its parent's child");
    const bool goes_on = node.children.size() > 0 || marks_.at(id) != kNoMark;
    std::uint32_t covered = goes_on ? node.end() : node.start;
    if (num_full(id) > 0) covered = std::max(covered, node.end() / span_tokens() * span_tokens());
    for (ChunkId tail = node.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
      covered = std::max(covered, chunks_.end(tail));
    }
    require(covered == node.end(), name + " has tokens that no chunk covers");
    for (const Tier tier : kTiers) {
      require(node.best[index_of(tier)] == best_below(id, tier, kNoChunk),
              name + " has a wrong best chunk below");
    }
    std::uint64_t num_pins = 0;
    for (const auto& [pinned, count] : pins_) {
      for (NodeId at = chunks_.node(pinned); at != kNoNode; at = tree_[at].parent) {
        if (at == id) num_pins += count;
      }
    }
    require(num_pins == node.num_pins, name + " miscounts its pins");
    node.children.for_each([&](NodeId child) { open.push_back(child); });
  }
}

void RadixIndex::check_chunk(ChunkId id) const {
  const Chunk& chunk = chunks_[id];
  const Node& node = tree_[chunks_.node(id)];
  require(chunks_.end(id) > node.start && chunks_.end(id) <= node.end(),
          named(id) + " does not end in its node");
  require((chunk.parent == kNoChunk) == (chunk.span == 0), named(id) + " has a wrong parent");
  if (chunk.parent != kNoChunk) {
    require(!chunks_.is_tail(chunk.parent), named(id) + " has a tail for a parent");
    require(chunks_[chunk.parent].span + 1 == chunk.span,
            named(id) + " does not follow its parent");
  }
  constexpr std::uint8_t kAnyTier = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  const bool is_on_path = !chunks_.is_tail(id) && marks_.is_on_path(chunks_.node(id));
  require(chunks_.has(id, kAnyTier) || is_pinned(id) || is_on_path,
          named(id) + " has no reason to be");
  const Point point{chunks_.node(id), chunks_.end(id)};
  require(chunks_.group(id) == governor(point, kNoChunk), named(id) + " is of a wrong group");
  require(!chunks_.has(id, state::kDropped) || is_pinned(id), named(id) + " was dropped");
  for (const Tier tier : kTiers) {
    const bool kept = chunks_.has(id, state::kept(tier));
    const std::uint32_t offset = chunk.offset[index_of(tier)];
    require(kept == (offset != kNoExtent), named(id) + " has a wrong extent");
    require(kept || chunk.uses[index_of(tier)] == 0, named(id) + " has uses without an extent");
    require(!chunks_.has(id, state::writing(tier)) || chunk.uses[index_of(tier)] > 0,
            named(id) + " is written by nobody");
    require(!kept || chunk.parent == kNoChunk || chunks_.has(chunk.parent, state::kept(tier)),
            named(id) + " is kept without its parent");
    const bool waits = chunks_.has(id, state::queued(tier)) || this->tier(tier).held.contains(id);
    require(!is_leaf(id, tier) || waits, named(id) + " could never be evicted");
    const bool is_held = this->tier(tier).held.contains(id) && is_leaf(id, tier);
    require(!is_held || is_pinned(id) || chunk.uses[index_of(tier)] > 0,
            named(id) + " is held by nothing");
  }
}

void RadixIndex::check_tier(Tier which, const std::vector<ChunkId>& all) const {
  const TierState& tier = this->tier(which);
  tier.extents.check_invariants();
  std::uint64_t num_units = 0;
  std::uint64_t num_extents = 0;
  std::uint64_t num_ready = 0;
  std::uint64_t num_writing = 0;
  std::uint64_t num_uses = 0;
  std::vector<std::uint32_t> num_children(chunks_.num_slots(), 0);
  for (const ChunkId id : all) {
    const Chunk& chunk = chunks_[id];
    num_uses += chunk.uses[index_of(which)];
    if (!chunks_.has(id, state::kept(which))) continue;
    ++num_extents;
    num_units += chunk.num_units;
    chunks_.has(id, state::ready(which)) ? ++num_ready : ++num_writing;
    if (chunk.parent != kNoChunk) ++num_children[chunk.parent];
  }
  for (const auto& [offset, left] : tier.limbo) {
    ++num_extents;
    num_units += left.first;
    num_uses += left.second;
  }
  for (const ChunkId id : all) {
    require(chunks_.is_tail(id) || chunks_[id].num_children[index_of(which)] == num_children[id],
            named(id) + " miscounts its children");
  }
  require(num_units + tier.extents.num_free() == tier.extents.num_units(), "units are lost");
  require(num_extents == tier.num_extents, "extents are miscounted");
  require(num_extents <= tier.max_chunks, "a tier has more chunks than headers");
  require(num_ready == tier.num_ready && num_writing == tier.num_writing, "states are miscounted");
  require(num_uses == tier.num_uses, "uses are miscounted");
}

}  // namespace radixkv
