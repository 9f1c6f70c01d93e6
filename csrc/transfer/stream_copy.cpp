#include "transfer/stream_copy.h"

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace radixkv {

#ifdef __SSE2__

namespace {

constexpr std::size_t kLineBytes = 64;
constexpr std::size_t kVectorBytes = 16;
// Below, the lines at both ends that are only written in part cost more than is gained.
constexpr std::size_t kMinBytes = 1024;

}  // namespace

void stream_copy(std::byte* target, const std::byte* source, std::size_t num_bytes) {
  if (num_bytes < kMinBytes) {
    std::memcpy(target, source, num_bytes);
    return;
  }
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(target) % kLineBytes;
  std::memcpy(target, source, head);
  const std::size_t lines_end = head + (num_bytes - head) / kLineBytes * kLineBytes;
  for (std::size_t line = head; line < lines_end; line += kLineBytes) {
    for (std::size_t at = line; at < line + kLineBytes; at += kVectorBytes) {
      const __m128i vector = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + at));
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + at), vector);
    }
  }
  std::memcpy(target + lines_end, source + lines_end, num_bytes - lines_end);
}

void stream_fence() { _mm_sfence(); }

#else

void stream_copy(std::byte* target, const std::byte* source, std::size_t num_bytes) {
  std::memcpy(target, source, num_bytes);
}

void stream_fence() {}

#endif

}  // namespace radixkv
