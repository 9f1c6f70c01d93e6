#include "core/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace radixkv {

namespace {

std::size_t round_up(std::size_t num_bytes) {
  return (num_bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

}  // namespace

Mapping::Mapping(std::size_t num_bytes) : address_(map(num_bytes)), num_bytes_(num_bytes) {}

void* Mapping::map(std::size_t num_bytes) {
  const std::size_t rounded = round_up(num_bytes);
  void* found = mmap(nullptr, rounded + kHugePageBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) throw std::bad_alloc();
  auto* const begin = static_cast<std::byte*>(found);
  const std::size_t before =
      round_up(reinterpret_cast<std::uintptr_t>(begin)) - reinterpret_cast<std::uintptr_t>(begin);
  if (before > 0) munmap(begin, before);
  if (before < kHugePageBytes) munmap(begin + before + rounded, kHugePageBytes - before);
  // Refused where the system has none; then small pages do.
  madvise(begin + before, rounded, MADV_HUGEPAGE);
  return begin + before;
}

void Mapping::unmap(void* address, std::size_t num_bytes) { munmap(address, round_up(num_bytes)); }

}  // namespace radixkv
