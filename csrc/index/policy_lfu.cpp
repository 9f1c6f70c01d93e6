// Least frequently used; of those used as often, the least recently used. Never forgets: good where
// the same documents are asked for all day, bad for conversations that end.
#include <algorithm>

#include "index/eviction_policy.h"

namespace radixkv {

namespace {

std::uint8_t weigh(const LeafFacts& facts) {
  return static_cast<std::uint8_t>(std::min<std::uint32_t>(facts.num_uses, kNumWeights - 1));
}

}  // namespace

const EvictionPolicy kLfu{
    .name = "lfu", .weight = weigh, .lightest_first = true, .is_renewed_by_uses = true};

}  // namespace radixkv
