// Tails: the shorter last chunk of a stored sequence. A conversation that grows stores a new chunk
// over the same span; the tail goes once a chunk that is ready on the tier has all but `tail_slack`
// of its tokens.
//
// Such a chunk lies on the tail's path, or parts from it at a node's end at most `tail_slack`
// tokens before the tail's. `near_tails_` lists, for a node, the tails behind its end that a chunk
// parting there covers:
//
//        ──────────── node ─────────┬── tail                  near: 3 tokens behind the node's end
//                                   └────────── new chunk     covers all but 3 of its tokens
#include <algorithm>

#include "index/radix_index.h"

namespace radixkv {

// How many of a tail's tokens another chunk must have to make it needless.
std::uint32_t RadixIndex::least_cover(ChunkId tail) const {
  const std::uint32_t num_tokens = chunks_[tail].num_tokens;
  return num_tokens > config_.tail_slack + 1 ? num_tokens - config_.tail_slack : 1;
}

void RadixIndex::note_tail(ChunkId id) {
  const std::uint32_t least_end = chunks_.start(id) + least_cover(id);
  NodeId node = chunks_.node(id);
  while (tree_[node].start >= least_end) {
    node = tree_[node].parent;
    near_tails_[node].push_back(id);
  }
}

void RadixIndex::forget_tail(ChunkId id) {
  const std::uint32_t least_end = chunks_.start(id) + least_cover(id);
  NodeId node = chunks_.node(id);
  while (tree_[node].start >= least_end) {
    node = tree_[node].parent;
    std::vector<ChunkId>& near = near_tails_[node];
    std::erase(near, id);
    if (near.empty()) near_tails_.erase(node);
  }
}

// After a split, what is near the new node's end: in the lower half or near its end.
void RadixIndex::inherit_near_tails(NodeId upper, NodeId lower) {
  const std::uint32_t end = tree_[upper].end();
  std::vector<ChunkId> near;
  const auto offer = [&](ChunkId tail) {
    const std::uint32_t start = chunks_.start(tail);
    if (start < end && start + least_cover(tail) <= end) near.push_back(tail);
  };
  for (ChunkId tail = tree_[lower].first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
    offer(tail);
  }
  const auto deeper = near_tails_.find(lower);
  if (deeper != near_tails_.end())
    std::for_each(deeper->second.begin(), deeper->second.end(), offer);
  if (!near.empty()) near_tails_[upper] = std::move(near);
}

// Whether another visible chunk of the span has at least `least` of a tail's tokens. Only nodes
// that end that far into the span are looked at: where many prompts part before, their number does
// not matter.
bool RadixIndex::is_covered(ChunkId tail, Tier tier, std::uint32_t least) const {
  const std::uint32_t span = chunks_[tail].span;
  const std::uint32_t span_end = (span + 1) * span_tokens();
  const std::uint32_t least_end = chunks_.start(tail) + least;
  const auto covers = [&](ChunkId id) {
    return id != kNoChunk && id != tail && chunks_.is_visible(id, tier);
  };
  NodeId node = chunks_.node(tail);
  while (true) {
    const Node& here = tree_[node];
    const ChunkId below =
        here.end() >= span_end ? full_chunk(node, span) : here.best[index_of(tier)];
    if (covers(below)) return true;
    if (below == tail && best_below(node, tier, tail) != kNoChunk) return true;
    for (ChunkId other = here.first_tail; other != kNoChunk; other = chunks_.next_tail(other)) {
      const bool reaches = chunks_[other].span == span && chunks_.end(other) >= least_end;
      if (reaches && covers(other)) return true;
    }
    if (here.start < least_end) return false;
    node = here.parent;
  }
}

// REQUIRES: `tail` is a tail. It may be gone afterwards.
void RadixIndex::leave_if_covered(ChunkId tail, Tier tier) {
  if (!chunks_.has(tail, state::ready(tier)) || chunks_[tail].uses[index_of(tier)] > 0) return;
  if (is_pinned(tail) || !is_covered(tail, tier, least_cover(tail))) return;
  vacate(tail, tier);
}

// `id` has just become ready on the tier: the tails that it covers go. A tail that another chunk
// has whole goes itself instead. It may be gone afterwards.
void RadixIndex::supersede_tails(ChunkId id, Tier tier) {
  const bool is_tail = chunks_.is_tail(id);
  if (!chunks_.is_visible(id, tier)) return;
  if (is_tail && is_covered(id, tier, chunks_[id].num_tokens)) {
    leave_if_covered(id, tier);
    return;
  }
  const std::uint32_t span_start = chunks_.start(id);
  std::vector<ChunkId> covered;
  for (NodeId node = chunks_.node(id);; node = tree_[node].parent) {
    const Node& here = tree_[node];
    for (ChunkId tail = here.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
      if (chunks_.start(tail) == span_start && chunks_.end(tail) < chunks_.end(id)) {
        covered.push_back(tail);
      }
    }
    if (here.start <= span_start) break;
    const auto near = near_tails_.find(here.parent);
    if (near != near_tails_.end()) {
      covered.insert(covered.end(), near->second.begin(), near->second.end());
    }
  }
  // A tail may be listed twice: by its node, and as near a node above.
  std::sort(covered.begin(), covered.end());
  covered.erase(std::unique(covered.begin(), covered.end()), covered.end());
  for (const ChunkId tail : covered) {
    if (tail != id) leave_if_covered(tail, tier);
  }
  if (is_tail) leave_if_covered(id, tier);
}

}  // namespace radixkv
