// Reuse: what has been found again n times may be idle (n + 1) / 2 times as long as what was found
// once; and how long that may be, beside what never was, is learnt from what comes back after it
// left (ghost_list.h). Between LRU, which forgets a document that everybody asks for as quickly as
// a question that nobody repeats, and LFU, which never forgets: a count buys time, and time passes.
// `make bench NAME=replay` compares it with the others.
#include <algorithm>

#include "index/eviction_policy.h"

namespace radixkv {

namespace {

std::uint8_t weigh(const LeafFacts& facts) {
  static_assert(kFoundOnce == 4, "log2(2), in quarters");
  const std::uint32_t steps = steps_of_weight(facts.num_uses + 1u);
  return static_cast<std::uint8_t>(std::min(steps, kNumWeights - 1));
}

}  // namespace

const EvictionPolicy kReuse{.name = "reuse",
                            .weight = weigh,
                            .lightest_first = false,
                            .is_renewed_by_uses = true,
                            .learns = true};

}  // namespace radixkv
