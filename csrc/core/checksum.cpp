#include "core/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace radixkv {

#if defined(__x86_64__)
// checksum_avx2.cpp
std::uint64_t xxh3_64_avx2(const void* data, std::size_t num_bytes);
void xxh3_64_add_avx2(void* state, const void* data, std::size_t num_bytes);
#endif

namespace {

bool has_avx2() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
#else
  return false;
#endif
}

}  // namespace

std::uint64_t xxh3_64(const void* data, std::size_t num_bytes) {
#if defined(__x86_64__)
  if (has_avx2()) return xxh3_64_avx2(data, num_bytes);
#endif
  return XXH3_64bits(data, num_bytes);
}

struct StreamedChecksum::State {
  XXH3_state_t xxh3;  // the same whichever vectors go on with it
};

StreamedChecksum::StreamedChecksum() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(&state_->xxh3);
}

StreamedChecksum::~StreamedChecksum() = default;

void StreamedChecksum::add(std::span<const std::byte> bytes) {
#if defined(__x86_64__)
  if (has_avx2()) return xxh3_64_add_avx2(&state_->xxh3, bytes.data(), bytes.size());
#endif
  XXH3_64bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

std::uint64_t StreamedChecksum::value() const { return XXH3_64bits_digest(&state_->xxh3); }

}  // namespace radixkv
