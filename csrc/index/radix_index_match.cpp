// Reading: how far a prompt is kept, and in which chunks.
#include <algorithm>

#include "index/radix_index.h"

namespace radixkv {

Match RadixIndex::match(NamespaceId space, const TokenView& tokens) const {
  NodeId node = root_of(space);
  std::uint32_t position = 0;
  Point memory{node, 0};
  bool all_in_memory = true;
  while (position < tokens.size()) {
    const std::optional<Token> next = tokens.at(position);
    const NodeId child = next ? tree_[node].children.find(*next) : kNoNode;
    if (child == kNoNode) break;
    const Node& found = tree_[child];
    const auto matched =
        static_cast<std::uint32_t>(tokens.match(position, found.run.data(), found.run.size()));
    const std::uint32_t first_span = position / span_tokens();
    const std::uint32_t num_spans = (position + matched) / span_tokens() - first_span;
    node = child;
    if (all_in_memory) {
      const std::uint32_t num_ready = chunks_.count_in_memory(found.first_chunk, num_spans);
      if (num_ready < num_spans) {
        all_in_memory = false;
        memory = {node, (first_span + num_ready + 1) * span_tokens()};
      }
    }
    if (!all_in_memory) {
      const std::uint32_t num_visible = chunks_.count_visible(found.first_chunk, num_spans);
      if (num_visible < num_spans) {
        position = (first_span + num_visible + 1) * span_tokens();
        break;
      }
    }
    position += matched;
    if (matched < found.run.size()) break;
  }
  const Point any{node, position};
  return finish_match(any, all_in_memory ? any : memory);
}

// Both points say how far the path goes before a full chunk is missing; their spans may still be
// covered in part, by a tail or by a chunk that parts from the caller's tokens.
Match RadixIndex::finish_match(Point any, Point memory) const {
  const auto whole_spans = [this](Point point) {
    return point.position == 0 ? 0 : (point.position - 1) / span_tokens() * span_tokens();
  };
  Match result;
  const Reach in_memory = reach(memory, std::span(kTiers).first(1));
  result.num_memory_tokens = std::max(in_memory.position, whole_spans(memory));
  const Reach anywhere = reach(any, kTiers);
  result.num_tokens = anywhere.position;
  result.last = anywhere.chunk;
  if (anywhere.position == 0 && whole_spans(any) > 0) {
    result.num_tokens = whole_spans(any);
    NodeId node = any.node;
    while (tree_[node].start >= result.num_tokens) node = tree_[node].parent;
    result.last = full_chunk(node, result.num_tokens / span_tokens() - 1);
  }
  if (result.last != kNoChunk) result.generation = chunks_[result.last].generation;
  return result;
}

// The longest part of the span that ends at or holds `point` which one visible chunk shares with
// the path to `point`. Every chunk that parts from the path does so at the end of a node, so it is
// enough to look at the tails on the path and at the best chunk below each node, from the deepest
// up.
RadixIndex::Reach RadixIndex::reach(Point point, std::span<const Tier> tiers) const {
  Reach best;
  if (point.position == 0) return best;
  const std::uint32_t span = (point.position - 1) / span_tokens();
  const std::uint32_t span_start = span * span_tokens();
  const auto offer = [&](ChunkId id, std::uint32_t position, Tier tier) {
    if (id == kNoChunk || position < best.position || !chunks_.is_visible(id, tier)) return;
    if (position == best.position && best.chunk != kNoChunk) {
      if (tier > best.tier || (tier == best.tier && !is_better(id, best.chunk))) return;
    }
    best = {position, id, tier};
  };
  NodeId node = point.node;
  std::uint32_t position = point.position;
  while (true) {
    const Node& here = tree_[node];
    const bool holds_span_end = here.end() >= span_start + span_tokens();
    for (const Tier tier : tiers) {
      offer(holds_span_end ? full_chunk(node, span) : here.best[index_of(tier)], position, tier);
      for (ChunkId tail = here.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
        if (chunks_[tail].span == span) offer(tail, std::min(position, chunks_.end(tail)), tier);
      }
    }
    if (here.start <= span_start || best.position == position) return best;
    position = here.start;
    node = here.parent;
  }
}

// Of two chunks that serve a match equally, the one used last; of two as old, the one that leaves
// later.
bool RadixIndex::is_better(ChunkId a, ChunkId b) const {
  if (chunks_[a].time != chunks_[b].time) return chunks_[a].time > chunks_[b].time;
  return a > b;
}

ChunkRef RadixIndex::ref(ChunkId id) const { return slice(id, 0, chunks_[id].num_tokens); }

ChunkRef RadixIndex::slice(ChunkId id, std::uint32_t first, std::uint32_t count) const {
  const Chunk& chunk = chunks_[id];
  return {.id = id,
          .generation = chunk.generation,
          .memory_offset = chunk.offset[index_of(Tier::kMemory)],
          .disk_offset = chunk.offset[index_of(Tier::kDisk)],
          .parent_disk_offset = chunk.parent == kNoChunk
                                    ? kNoExtent
                                    : chunks_[chunk.parent].offset[index_of(Tier::kDisk)],
          .span = chunk.span,
          .num_tokens = chunk.num_tokens,
          .num_units = chunk.num_units,
          .first = static_cast<std::uint16_t>(first),
          .count = static_cast<std::uint16_t>(count)};
}

std::vector<ChunkRef> RadixIndex::slices(const Match& match) const {
  if (match.last == kNoChunk || !chunks_.is_current(match.last, match.generation)) return {};
  return slices(Pin{match.num_tokens, match.last});
}

std::vector<ChunkRef> RadixIndex::slices(const Pin& pin) const {
  if (pin.last == kNoChunk) return {};
  std::vector<ChunkRef> result(chunks_[pin.last].span + 1);
  std::uint32_t end = pin.num_tokens;
  for (ChunkId id = pin.last; id != kNoChunk; id = chunks_[id].parent) {
    result[chunks_[id].span] = slice(id, 0, end - chunks_.start(id));
    end = chunks_.start(id);
  }
  return result;
}

std::uint32_t RadixIndex::num_memory_tokens(const Pin& pin) const {
  std::uint32_t result = pin.num_tokens;
  for (ChunkId id = pin.last; id != kNoChunk; id = chunks_[id].parent) {
    if (!chunks_.has(id, state::ready(Tier::kMemory))) result = chunks_.start(id);
  }
  return result;
}

}  // namespace radixkv
