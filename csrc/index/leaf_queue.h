// LeafQueue holds the leaves of one tier and one group (see MarkTable) in the policy's order: a
// heap for each weight, the oldest in front.
//
// It is lazy: an entry's time may be older than the chunk's, and an entry may outlive its chunk or
// lie under a weight or in a group that the chunk no longer has. Whoever looks checks. That is
// exact, because a chunk only grows younger and one that grows heavier, or changes its group, gets
// an entry there at once.
// Entries that count for nothing are swept out once they are the majority.
//
// What left leaves a gap in front, for the leaf that comes next: mostly its parent, as old as it,
// which is in its place there at once. Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "index/chunk_table.h"
#include "index/eviction_policy.h"
#include "index/ghost_list.h"

namespace radixkv {

class LeafQueue {
 public:
  // What leaves first, of one queue.
  struct Front {
    std::uint64_t idle;  // for its weight
    std::uint32_t weight;
    std::uint64_t time;
    std::uint32_t span;
    ChunkId id;
  };

  // `ghosts`: of the tier, for a policy that learns.
  LeafQueue(ChunkTable& chunks, Tier tier, std::uint32_t group, const EvictionPolicy& policy,
            const GhostList& ghosts)
      : chunks_(chunks),
        policy_(policy),
        ghosts_(ghosts),
        group_(group),
        queued_(state::queued(tier)) {}

  // Adds the chunk as it is now, unless it is queued already. REQUIRES: it is of the group.
  void push(ChunkId id) {
    if (chunks_.has(id, queued_)) return;
    chunks_.state(id) |= queued_;
    insert(id);
  }

  // The chunk's weight was another one until now.
  void reweigh(ChunkId id) {
    if (chunks_.has(id, queued_)) insert(id);
  }

  // The leaf that leaves first as things are now. `now`: the number of the last admission.
  std::optional<Front> front(std::uint64_t now);

  // Takes that leaf out. REQUIRES: front() has just given it.
  void take(const Front& front);

  // Both at once; kNoChunk where there is no leaf.
  ChunkId pop(std::uint64_t now);

  // Takes out the oldest leaf of any weight that was last used at `time` or before; kNoChunk where
  // there is none.
  ChunkId pop_idle(std::uint64_t time);

  // The chunk's slot is freed, or it leaves: its entry, if any, is dead from now on.
  void forget(ChunkId id) { chunks_.state(id) &= static_cast<std::uint8_t>(~queued_); }

  // Whether the front of one queue leaves before that of another one.
  bool leaves_before(const Front& a, const Front& b) const;

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

  static constexpr std::uint32_t kNoWeight = kNumWeights;

  static bool leaves_after(const Entry& a, const Entry& b);
  static void replace_front(Heap& heap, const Entry& entry);
  bool is_alive(const Entry& entry, std::uint32_t weight) const;
  void insert(ChunkId id);
  std::uint32_t choose(std::uint64_t now) const;
  std::uint64_t idle(std::uint64_t now, std::uint64_t time, std::uint32_t weight) const;
  bool clean_front(std::uint32_t weight);
  void drop_front(std::uint32_t weight);
  void close_gap();
  void sweep();

  ChunkTable& chunks_;
  const EvictionPolicy& policy_;
  const GhostList& ghosts_;
  std::uint32_t group_;
  std::uint8_t queued_;
  std::size_t num_entries_ = 0;
  std::size_t sweep_at_ = 64;
  std::uint64_t filled_ = 0;       // a bit for each heap that is not empty
  std::uint32_t gap_ = kNoWeight;  // the heap, of two or more, whose front is to be replaced
  std::array<Heap, kNumWeights> heaps_;
};

}  // namespace radixkv
