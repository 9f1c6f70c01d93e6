#include "index/leaf_order.h"

#include <optional>

namespace radixkv {

LeafQueue& LeafOrder::queue_of(ChunkId id) {
  const MarkId group = chunks_.group(id);
  if (group == kNoMark) return ungoverned_;
  return governed_.try_emplace(group, chunks_, tier_, group, policy_, ghosts_).first->second;
}

LeafQueue* LeafOrder::find(MarkId group) {
  if (group == kNoMark) return &ungoverned_;
  const auto found = governed_.find(group);
  return found == governed_.end() ? nullptr : &found->second;
}

ChunkId LeafOrder::pop(std::span<const MarkId> groups, std::uint64_t now) {
  if (groups.size() == 1 && groups.front() == kNoMark) return ungoverned_.pop(now);
  LeafQueue* best_queue = nullptr;
  std::int32_t best_priority = 0;
  LeafQueue::Front best{};
  for (const MarkId group : groups) {
    LeafQueue* queue = find(group);
    const std::optional<LeafQueue::Front> front = queue ? queue->front(now) : std::nullopt;
    if (!front) continue;
    const std::int32_t priority = marks_.priority(group);
    const bool is_first = best_queue == nullptr || priority < best_priority ||
                          (priority == best_priority && queue->leaves_before(*front, best));
    if (!is_first) continue;
    best_queue = queue;
    best_priority = priority;
    best = *front;
  }
  if (best_queue == nullptr) return kNoChunk;
  best_queue->take(best);
  return best.id;
}

ChunkId LeafOrder::pop_idle(MarkId group, std::uint64_t time) {
  LeafQueue* queue = find(group);
  return queue == nullptr ? kNoChunk : queue->pop_idle(time);
}

}  // namespace radixkv
