// What those who follow the index are told.
#include "index/radix_index.h"

namespace radixkv {

void RadixIndex::record_events(std::size_t most_events) { events_.begin(most_events); }

EventLog::Taken RadixIndex::take_events() { return events_.take(); }

// REQUIRES: the chunk has just become visible on the tier, or is about to be so no longer.
void RadixIndex::tell(ChunkId id, Tier which, bool is_stored) {
  if (!events_.is_on() || !chunks_.is_visible(id, which)) return;
  const Chunk& chunk = chunks_[id];
  NodeId space = chunks_.node(id);
  while (tree_[space].parent != kNoNode) space = tree_[space].parent;
  IndexEvent event{};
  event.id = id;
  event.generation = chunk.generation;
  event.parent_id = chunk.parent;
  event.parent_generation = chunk.parent == kNoChunk ? 0 : chunks_[chunk.parent].generation;
  event.space = space;
  event.num_tokens = chunk.num_tokens;
  event.is_stored = is_stored ? 1 : 0;
  event.tier = static_cast<std::uint8_t>(which);
  std::vector<Token>& tokens = events_.add(event);
  if (is_stored) append_tokens(id, tokens);
}

}  // namespace radixkv
