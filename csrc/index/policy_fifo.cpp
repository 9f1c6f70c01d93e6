// First in, first out: what was stored first leaves, however often it was used.
#include "index/eviction_policy.h"

namespace radixkv {

const EvictionPolicy kFifo{
    .name = "fifo", .weight = nullptr, .lightest_first = false, .is_renewed_by_uses = false};

}  // namespace radixkv
