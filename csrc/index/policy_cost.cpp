// Cost: LRU in which a token counts what it takes to compute it again. That is the weights, alike
// for all, and attention to all before it: as much again at position 32,768 (8B, grouped queries).
// What a token takes to keep is alike for all, so size is in the order already.
#include <algorithm>

#include "index/eviction_policy.h"

namespace radixkv {

namespace {

constexpr std::uint32_t kAsMuchAgain = 32'768;
constexpr std::uint32_t kParts = 8;  // of the cost at position 0

std::uint8_t weigh(const LeafFacts& facts) {
  const std::uint32_t cost = kParts + facts.position / (kAsMuchAgain / kParts);
  const std::uint32_t steps = steps_of_weight(cost) - steps_of_weight(kParts);
  return static_cast<std::uint8_t>(std::min(steps, kNumWeights - 1));
}

}  // namespace

const EvictionPolicy kCost{
    .name = "cost", .weight = weigh, .lightest_first = false, .is_renewed_by_uses = true};

}  // namespace radixkv
