// The token tree and the chunks' records, kept in step.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core/checksum.h"
#include "index/radix_index.h"

namespace radixkv {

NodeId RadixIndex::root_of(NamespaceId space) const {
  if (!tree_.is_root(space)) {
    throw std::invalid_argument("namespace: expected a number that namespace() gave, got " +
                                std::to_string(space));
  }
  return space;
}

// Spans that end in (start, end] of the node; each has its full chunk there.
std::uint32_t RadixIndex::num_full(NodeId node) const {
  return tree_[node].end() / span_tokens() - tree_[node].start / span_tokens();
}

// REQUIRES: the span ends in the node.
ChunkId RadixIndex::full_chunk(NodeId node, std::uint32_t span) const {
  return tree_[node].first_chunk + (span - tree_[node].start / span_tokens());
}

ChunkId RadixIndex::find_tail(NodeId node, std::uint32_t end) const {
  ChunkId tail = tree_[node].first_tail;
  while (tail != kNoChunk && chunks_.end(tail) != end) tail = chunks_.next_tail(tail);
  return tail;
}

RadixIndex::Path RadixIndex::walk(NamespaceId space, const TokenView& tokens) const {
  Path path{{root_of(space), 0}, {}};
  walk_on(tokens, 0, path);
  return path;
}

// Goes on from `path.point` as far as the tree has the tokens; `first` is the position of tokens'
// first.
void RadixIndex::walk_on(const TokenView& tokens, std::uint32_t first, Path& path) const {
  Point& point = path.point;
  while (point.position - first < tokens.size()) {
    const std::uint32_t at = point.position - first;
    NodeId node = point.node;
    if (point.position == tree_[node].end()) {
      const std::optional<Token> next = tokens.at(at);
      node = next ? tree_[node].children.find(*next) : kNoNode;
      if (node == kNoNode) return;
    }
    const Node& found = tree_[node];
    const std::uint32_t skipped = point.position - found.start;
    const auto matched = static_cast<std::uint32_t>(
        tokens.match(at, found.run.data() + skipped, found.run.size() - skipped));
    if (matched == 0) return;
    const std::uint32_t end = point.position + matched;
    const std::uint32_t span = point.position / span_tokens();
    const std::size_t num_before = path.chunks.size();
    path.chunks.resize(num_before + end / span_tokens() - span);
    std::iota(path.chunks.begin() + static_cast<std::ptrdiff_t>(num_before), path.chunks.end(),
              full_chunk(node, span));
    point = {node, end};
    if (end < found.end()) return;
  }
}

// Adds `fresh` behind the path, with a blank record for each span that ends in it.
// REQUIRES: the tree does not have fresh's first token there; `parent` is the last full chunk of
// the path.
void RadixIndex::grow(Path& path, const TokenRun& fresh, ChunkId parent) {
  const std::uint32_t start = path.point.position;
  const std::uint32_t end = start + fresh.size();
  NodeId above = path.point.node;
  const MarkId group = governor(path.point, parent);
  record(0x60, above, xxh3_64(fresh.data(), fresh.size() * sizeof(Token)));
  if (start < tree_[above].end()) above = split(above, start);
  std::uint32_t position = start;
  while (position < end) {
    const std::uint32_t span = position / span_tokens();
    const std::uint32_t num_spans = end / span_tokens() - span;
    const Extent ids = num_spans > 0 ? chunks_.take(num_spans) : Extent{kNoChunk, 0};
    // Ids that do not follow each other go to nodes of their own.
    const std::uint32_t node_end =
        ids.num_units < num_spans ? (span + ids.num_units) * span_tokens() : end;
    const NodeId node = tree_.add_leaf(above, fresh.part(position - start, node_end - position));
    tree_[node].first_chunk = ids.offset;
    if (ids.num_units > 0) chunks_.set_nodes(ids.offset, ids.num_units, node);
    for (std::uint32_t i = 0; i < ids.num_units; ++i) {
      Chunk& chunk = chunks_[ids.offset + i];
      chunk.parent = parent;
      chunk.span = span + i;
      chunk.num_tokens = static_cast<std::uint16_t>(span_tokens());
      chunk.is_sampled =
          GhostList::is_sampled(fresh.data()[(chunk.span + 1) * span_tokens() - start - 1]);
      parent = ids.offset + i;
      if (group != kNoMark) chunks_.set_group(parent, group);
      path.chunks.push_back(parent);
    }
    above = node;
    position = node_end;
  }
  path.point = {above, end};
}

// Makes the blank record of the tail that ends at `point`.
ChunkId RadixIndex::add_tail(Point point, ChunkId parent) {
  const ChunkId id = chunks_.take(1).offset;
  Chunk& chunk = chunks_[id];
  chunk.parent = parent;
  chunks_.node(id) = point.node;
  chunk.span = point.position / span_tokens();
  chunk.num_tokens = static_cast<std::uint16_t>(point.position % span_tokens());
  const Node& node = tree_[point.node];
  chunk.is_sampled = GhostList::is_sampled(node.run.data()[point.position - node.start - 1]);
  chunks_.set_next_tail(id, tree_[point.node].first_tail);
  tree_[point.node].first_tail = id;
  if (const MarkId group = governor(point, parent)) chunks_.set_group(id, group);
  note_tail(id);
  return id;
}

NodeId RadixIndex::split(NodeId node, std::uint32_t position) {
  const std::uint32_t num_upper = position / span_tokens() - tree_[node].start / span_tokens();
  const NodeId upper_id = tree_.split(node, position);
  Node& upper = tree_[upper_id];
  Node& lower = tree_[node];
  if (num_upper > 0) {
    upper.first_chunk = lower.first_chunk;
    chunks_.set_nodes(upper.first_chunk, num_upper, upper_id);
    lower.first_chunk += num_upper;
  }
  ChunkId tail = std::exchange(lower.first_tail, kNoChunk);
  while (tail != kNoChunk) {
    const ChunkId next = chunks_.next_tail(tail);
    const NodeId owner = chunks_.end(tail) <= position ? upper_id : node;
    chunks_.node(tail) = owner;
    chunks_.set_next_tail(tail, tree_[owner].first_tail);
    tree_[owner].first_tail = tail;
    tail = next;
  }
  upper.num_pins = lower.num_pins;
  if (upper.num_pins > 0) {
    for (const auto& [id, count] : pins_) {
      if (chunks_.node(id) == upper_id) lower.num_pins -= count;
    }
  }
  for (const Tier tier : kTiers) upper.best[index_of(tier)] = best_below(upper_id, tier, kNoChunk);
  inherit_near_tails(upper_id, node);
  marks_.split(upper_id, node);
  return upper_id;
}

// Undoes a split once one child is left, so that long paths do not stay in pieces.
void RadixIndex::join_with_only_child(NodeId node) {
  if (tree_[node].parent == kNoNode || tree_[node].children.size() != 1) return;
  if (marks_.at(node) != kNoMark) return;
  const std::uint32_t num_upper = num_full(node);
  const ChunkId first = tree_[node].first_chunk;
  const std::uint32_t num_pins = tree_[node].num_pins;
  ChunkId tail = tree_[node].first_tail;
  const NodeId child = tree_[node].children.any();
  const bool ids_follow =
      num_upper == 0 || num_full(child) == 0 || first + num_upper == tree_[child].first_chunk;
  if (!ids_follow || tree_.join(node) == kNoNode) return;
  Node& joined = tree_[child];
  joined.num_pins = num_pins;
  if (num_upper > 0) joined.first_chunk = first;
  if (num_upper > 0) chunks_.set_nodes(first, num_upper, child);
  while (tail != kNoChunk) {
    const ChunkId next = chunks_.next_tail(tail);
    chunks_.node(tail) = child;
    chunks_.set_next_tail(tail, joined.first_tail);
    joined.first_tail = tail;
    tail = next;
  }
  near_tails_.erase(node);
  marks_.forget(node);
}

// Frees the record of a chunk that nothing needs. REQUIRES: absent everywhere, no chunk below it.
void RadixIndex::remove(ChunkId id) {
  const NodeId node = chunks_.node(id);
  if (chunks_.is_tail(id)) {
    forget_tail(id);
    ChunkId previous = kNoChunk;
    for (ChunkId at = tree_[node].first_tail; at != id; at = chunks_.next_tail(at)) previous = at;
    if (previous == kNoChunk) {
      tree_[node].first_tail = chunks_.next_tail(id);
    } else {
      chunks_.set_next_tail(previous, chunks_.next_tail(id));
    }
  }
  for (TierState& tier : tiers_) {
    tier.leaves.forget(id);
    tier.forget_held(id);
  }
  chunks_.give_back(id);
  trim(node);
}

// A record on the way to a mark becomes blank instead.
void RadixIndex::remove_unless_needed(ChunkId id) {
  const std::uint8_t kept = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  if (chunks_.has(id, kept) || is_pinned(id)) return;
  if (marks_.empty() || chunks_.is_tail(id) || !marks_.is_on_path(chunks_.node(id))) {
    remove(id);
    return;
  }
  for (TierState& tier : tiers_) {
    tier.leaves.forget(id);
    tier.forget_held(id);
  }
  chunks_.make_blank(id);
}

// Takes out the tokens at the end of `node` that no chunk covers any more, and no mark needs.
void RadixIndex::trim(NodeId node) {
  while (tree_[node].parent != kNoNode) {
    if (tree_[node].children.size() > 0) {
      join_with_only_child(node);
      return;
    }
    if (marks_.at(node) != kNoMark) return;
    const std::uint32_t start = tree_[node].start;
    std::uint32_t num_chunks = num_full(node);
    // At most the last one of the run has just been removed.
    if (num_chunks > 0 && chunks_.node(tree_[node].first_chunk + num_chunks - 1) != node) {
      --num_chunks;
    }
    std::uint32_t end =
        num_chunks > 0 ? (start / span_tokens() + num_chunks) * span_tokens() : start;
    for (ChunkId tail = tree_[node].first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
      end = std::max(end, chunks_.end(tail));
    }
    if (end > start) {
      if (end < tree_[node].end()) tree_.shrink(node, end);
      return;
    }
    const NodeId parent = tree_[node].parent;
    tree_.remove_leaf(node);
    node = parent;
  }
}

// Every chunk that ends at `least_end` or behind it in the node, and all below the node; parents
// first.
void RadixIndex::collect(NodeId node, std::uint32_t least_end, std::vector<ChunkId>& out) const {
  std::vector<NodeId> open = {node};
  while (!open.empty()) {
    const NodeId at = open.back();
    open.pop_back();
    const Node& here = tree_[at];
    const std::uint32_t count = num_full(at);
    for (std::uint32_t i = 0; i < count; ++i) {
      if ((here.start / span_tokens() + i + 1) * span_tokens() >= least_end) {
        out.push_back(here.first_chunk + i);
      }
    }
    for (ChunkId tail = here.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
      if (chunks_.end(tail) >= least_end) out.push_back(tail);
    }
    here.children.for_each([&](NodeId child) { open.push_back(child); });
  }
}

// What Node::best has to be, computed from the children; `without` is left out.
ChunkId RadixIndex::best_below(NodeId node, Tier tier, ChunkId without) const {
  const std::uint32_t end = tree_[node].end();
  if (end % span_tokens() == 0) return kNoChunk;
  const std::uint32_t span = end / span_tokens();
  ChunkId best = kNoChunk;
  const auto offer = [&](ChunkId id) {
    if (id == kNoChunk || id == without || !chunks_.is_visible(id, tier)) return;
    if (best == kNoChunk || is_better(id, best)) best = id;
  };
  tree_[node].children.for_each([&](NodeId child) {
    const Node& below = tree_[child];
    if (below.end() >= (span + 1) * span_tokens()) {
      offer(below.first_chunk);
    } else {
      const ChunkId deeper = below.best[index_of(tier)];
      offer(deeper != without || without == kNoChunk ? deeper : best_below(child, tier, without));
    }
    for (ChunkId tail = below.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
      if (chunks_[tail].span == span) offer(tail);
    }
  });
  return best;
}

// A chunk became visible or invisible on the tier, or was used: the nodes above it in its span
// learn it.
void RadixIndex::refresh_best(ChunkId id, Tier tier) {
  const std::uint32_t span_start = chunks_.start(id);
  const bool visible = chunks_.is_visible(id, tier);
  NodeId node = chunks_.node(id);
  while (tree_[node].start > span_start) {
    node = tree_[node].parent;
    ChunkId& best = tree_[node].best[index_of(tier)];
    if (visible) {
      if (best != id && best != kNoChunk && !is_better(id, best)) return;
      best = id;
    } else {
      if (best != id) return;
      best = best_below(node, tier, kNoChunk);
    }
  }
}

}  // namespace radixkv
