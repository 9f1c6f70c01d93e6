// Which chunk leaves first. This is all that a policy is: an order over the leaves of a tier.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace radixkv {

// What an order may look at. It must not look at clocks, addresses or random numbers: replicas on
// several ranks have to agree.
struct LeafKey {
  std::uint64_t time = 0;  // number of the last admission that used the chunk
  std::uint32_t span = 0;  // its position in the prompt, in chunks
  ChunkId id = 0;
};

// Leaf-first LRU: the oldest leaves first; of two as old the deeper one; then the smaller id. The
// order is total. With a leaving chunk's time passed to its parent, it equals LRU with every
// ancestor touched.
//
// REQUIRES of any policy: a later time never brings a chunk forward in the order (the queue is
// lazy).
struct LeafLru {
  static bool leaves_before(const LeafKey& a, const LeafKey& b) {
    if (a.time != b.time) return a.time < b.time;
    if (a.span != b.span) return a.span > b.span;
    return a.id < b.id;
  }
};

using EvictionPolicy = LeafLru;

}  // namespace radixkv
