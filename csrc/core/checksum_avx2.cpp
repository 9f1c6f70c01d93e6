// XXH3-64 compiled for AVX2, in a file of its own: called only where the CPU has it. It includes
// nothing that another file could share, lest the linker keep the AVX2 copy of it for all.
#if defined(__x86_64__)

#pragma GCC target("avx2")

#include <immintrin.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR 2  // XXH_AVX2: the pragma allows the instructions, but sets no macro to tell
#include <xxhash.h>

#include <cstddef>
#include <cstdint>

namespace radixkv {

std::uint64_t xxh3_64_avx2(const void* data, std::size_t num_bytes);
void xxh3_64_add_avx2(void* state, const void* data, std::size_t num_bytes);

std::uint64_t xxh3_64_avx2(const void* data, std::size_t num_bytes) {
  return XXH3_64bits(data, num_bytes);
}

void xxh3_64_add_avx2(void* state, const void* data, std::size_t num_bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state), data, num_bytes);
}

}  // namespace radixkv

#endif
