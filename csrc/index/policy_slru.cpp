// Segmented LRU: what was found again at least once may be idle four times as long as what was not.
// The segments are told apart by time rather than size, since only a tier's leaves are in order.
#include "index/eviction_policy.h"

namespace radixkv {

namespace {

constexpr std::uint8_t kFourTimes = 8;

std::uint8_t weigh(const LeafFacts& facts) { return facts.num_uses > 0 ? kFourTimes : 0; }

}  // namespace

const EvictionPolicy kSlru{
    .name = "slru", .weight = weigh, .lightest_first = false, .is_renewed_by_uses = true};

}  // namespace radixkv
