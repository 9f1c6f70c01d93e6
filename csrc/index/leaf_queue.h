// LeafQueue holds the leaves of one tier in the policy's order.
//
// It is lazy: a chunk has at most one entry (the state bit `queued` says whether it has one), an
// entry's key may be older than the chunk's, and an entry may outlive its chunk. Whoever pops
// checks. Entries that outlived their chunk are swept out once they are the majority. Thread
// safety: one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "index/chunk_table.h"
#include "index/eviction_policy.h"

namespace radixkv {

class LeafQueue {
 public:
  struct Entry {
    LeafKey key;
    std::uint32_t generation = 0;
  };

  LeafQueue(ChunkTable& chunks, Tier tier) : chunks_(chunks), queued_(state::queued(tier)) {}

  // Adds the chunk with its key of now, unless it is queued already.
  void push(ChunkId id) {
    if (chunks_.has(id, queued_)) return;
    chunks_.state(id) |= queued_;
    ++num_alive_;
    if (entries_.size() > 2 * num_alive_ + 64) sweep();
    const Chunk& chunk = chunks_[id];
    entries_.push_back({{chunk.time, chunk.span, id}, chunk.generation});
    std::push_heap(entries_.begin(), entries_.end(), leaves_after);
  }

  // The chunk that leaves first by its key of now, taken out of the queue; kNoChunk if there is
  // none.
  ChunkId pop() {
    while (!entries_.empty()) {
      std::pop_heap(entries_.begin(), entries_.end(), leaves_after);
      Entry entry = entries_.back();
      entries_.pop_back();
      if (!is_alive(entry)) continue;
      const std::uint64_t time = chunks_[entry.key.id].time;
      if (entry.key.time == time) {
        forget(entry.key.id);
        return entry.key.id;
      }
      entry.key.time = time;
      entries_.push_back(entry);
      std::push_heap(entries_.begin(), entries_.end(), leaves_after);
    }
    return kNoChunk;
  }

  // The chunk's slot is freed: its entry, if any, is dead from now on.
  void forget(ChunkId id) {
    if (!chunks_.has(id, queued_)) return;
    chunks_.state(id) &= static_cast<std::uint8_t>(~queued_);
    --num_alive_;
  }

  std::size_t num_queued() const { return num_alive_; }

 private:
  static bool leaves_after(const Entry& a, const Entry& b) {
    return EvictionPolicy::leaves_before(b.key, a.key);
  }

  bool is_alive(const Entry& entry) const {
    return chunks_.is_current(entry.key.id, entry.generation) && chunks_.has(entry.key.id, queued_);
  }

  void sweep() {
    std::erase_if(entries_, [this](const Entry& entry) { return !is_alive(entry); });
    std::make_heap(entries_.begin(), entries_.end(), leaves_after);
  }

  ChunkTable& chunks_;
  std::uint8_t queued_;
  std::size_t num_alive_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace radixkv
