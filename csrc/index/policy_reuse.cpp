// Reuse: what has been found again n times may be idle n + 1 times as long as what never was.
// Between LRU, which forgets a document that everybody asks for as quickly as a question that
// nobody repeats, and LFU, which never forgets: a count buys time, and time passes. `make bench
// NAME=replay` compares it with the others.
#include <algorithm>

#include "index/eviction_policy.h"

namespace radixkv {

namespace {

std::uint8_t weigh(const LeafFacts& facts) {
  const std::uint32_t steps = steps_of_weight(facts.num_uses + 1u);
  return static_cast<std::uint8_t>(std::min(steps, kNumWeights - 1));
}

}  // namespace

const EvictionPolicy kReuse{
    .name = "reuse", .weight = weigh, .lightest_first = false, .is_renewed_by_uses = true};

}  // namespace radixkv
