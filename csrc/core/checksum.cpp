#include "core/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace radixkv {

#if defined(__x86_64__)
std::uint64_t xxh3_64_avx2(const void* data, std::size_t num_bytes);  // checksum_avx2.cpp
#endif

std::uint64_t xxh3_64(const void* data, std::size_t num_bytes) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return xxh3_64_avx2(data, num_bytes);
#endif
  return XXH3_64bits(data, num_bytes);
}

}  // namespace radixkv
