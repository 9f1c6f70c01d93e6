// LeafOrder holds all leaves of one tier: a LeafQueue for each marked subtree (see MarkTable), and
// one for what no mark governs. So a pinned subtree is left alone, and one that is at its quota is
// emptied, without a look at the others' leaves.
//
// Across queues the lower priority leaves first, then what the policy says. Thread safety: one
// thread.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "index/leaf_queue.h"
#include "index/mark_table.h"

namespace radixkv {

class LeafOrder {
 public:
  LeafOrder(ChunkTable& chunks, const MarkTable& marks, Tier tier, const EvictionPolicy& policy,
            const GhostList& ghosts)
      : chunks_(chunks),
        marks_(marks),
        tier_(tier),
        policy_(policy),
        ghosts_(ghosts),
        ungoverned_(chunks, tier, kNoMark, policy, ghosts) {}

  // As those of LeafQueue, in the queue of the chunk's group.
  void push(ChunkId id) { queue_of(id).push(id); }
  void reweigh(ChunkId id) { queue_of(id).reweigh(id); }
  void forget(ChunkId id) { ungoverned_.forget(id); }
  std::uint32_t weight(ChunkId id) const { return ungoverned_.weight(id); }

  // The leaf of these groups that leaves first, taken out; kNoChunk if there is none.
  ChunkId pop(std::span<const MarkId> groups, std::uint64_t now);

  // The oldest leaf of a group that was last used at `time` or before, taken out; or kNoChunk.
  ChunkId pop_idle(MarkId group, std::uint64_t time);

  // The mark is gone. REQUIRES: no chunk is of its group.
  void remove_group(MarkId group) { governed_.erase(group); }

 private:
  LeafQueue& queue_of(ChunkId id);
  LeafQueue* find(MarkId group);

  ChunkTable& chunks_;
  const MarkTable& marks_;
  Tier tier_;
  const EvictionPolicy& policy_;
  const GhostList& ghosts_;
  LeafQueue ungoverned_;
  std::unordered_map<MarkId, LeafQueue> governed_;
};

}  // namespace radixkv
