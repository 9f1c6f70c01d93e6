// Least recently used: all weigh the same, and what has been idle the longest leaves. With a
// leaving chunk's time passed to its parent it equals LRU with every ancestor touched.
#include "index/eviction_policy.h"

namespace radixkv {

const EvictionPolicy kLru{
    .name = "lru", .weight = nullptr, .lightest_first = false, .is_renewed_by_uses = true};

}  // namespace radixkv
