// LeafQueue holds the leaves of one tier in the policy's order: a heap for each weight, the oldest
// in front.
//
// It is lazy: an entry's time may be older than the chunk's, and an entry may outlive its chunk or
// lie under a weight that the chunk no longer has. Whoever looks checks. That is exact, because a
// chunk only grows younger and a chunk that grows heavier gets an entry under its weight at once.
// Entries that count for nothing are swept out once they are the majority. Thread safety: one
// thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "index/chunk_table.h"
#include "index/eviction_policy.h"

namespace radixkv {

class LeafQueue {
 public:
  LeafQueue(ChunkTable& chunks, Tier tier, const EvictionPolicy& policy)
      : chunks_(chunks), policy_(policy), queued_(state::queued(tier)) {}

  // Adds the chunk as it is now, unless it is queued already.
  void push(ChunkId id) {
    if (chunks_.has(id, queued_)) return;
    chunks_.state(id) |= queued_;
    ++num_alive_;
    insert(id);
  }

  // The chunk's weight was another one until now.
  void reweigh(ChunkId id) {
    if (chunks_.has(id, queued_)) insert(id);
  }

  // The chunk that leaves first as things are now, taken out of the queue; kNoChunk if there is
  // none. `now`: the number of the last admission.
  ChunkId pop(std::uint64_t now);

  // The chunk's slot is freed, or it leaves: its entry, if any, is dead from now on.
  void forget(ChunkId id) {
    if (!chunks_.has(id, queued_)) return;
    chunks_.state(id) &= static_cast<std::uint8_t>(~queued_);
    --num_alive_;
  }

  std::uint32_t weight(ChunkId id) const {
    if (policy_.weight == nullptr) return 0;
    return policy_.weight({.position = chunks_.start(id), .num_uses = chunks_[id].num_uses});
  }

 private:
  struct Entry {
    std::uint64_t time;
    std::uint32_t span;
    ChunkId id;
    std::uint32_t generation;
  };
  using Heap = std::vector<Entry>;

  static bool leaves_after(const Entry& a, const Entry& b);
  bool is_alive(const Entry& entry, std::uint32_t weight) const;
  void insert(ChunkId id);
  std::uint32_t choose(std::uint64_t now) const;
  void drop_front(std::uint32_t weight);
  void sweep();

  ChunkTable& chunks_;
  const EvictionPolicy& policy_;
  std::uint8_t queued_;
  std::size_t num_alive_ = 0;
  std::size_t num_entries_ = 0;
  std::size_t sweep_at_ = 64;
  std::uint64_t filled_ = 0;  // a bit for each heap that is not empty
  std::array<Heap, kNumWeights> heaps_;
};

}  // namespace radixkv
