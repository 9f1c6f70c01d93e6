// ARC-like: two kinds of leaves, found again or not, as in segmented LRU; how much longer the one
// may be idle than the other is learnt from what comes back after it left (ghost_list.h).
#include "index/eviction_policy.h"

namespace radixkv {

namespace {

std::uint8_t weigh(const LeafFacts& facts) { return facts.num_uses > 0 ? kFoundOnce : 0; }

}  // namespace

const EvictionPolicy kArc{.name = "arc",
                          .weight = weigh,
                          .lightest_first = false,
                          .is_renewed_by_uses = true,
                          .learns = true};

}  // namespace radixkv
