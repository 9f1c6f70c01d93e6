#include "memory/pinned_pool.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "core/tier_failure.h"

namespace radixkv {
namespace {

constexpr std::size_t kStripeBytes = std::size_t{64} << 20;
constexpr std::size_t kPageBytes = 4096;
constexpr int kMaxNumaNodes = 1024;

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

[[noreturn]] void fail(const std::string& what, std::size_t num_bytes, int error) {
  throw TierFailure(TierFailure::Kind::kOther, "memory", "open",
                    what + " of " + std::to_string(num_bytes) + " bytes failed (" +
                        std::strerror(error) + "): make memory.size smaller");
}

// mbind by its number, so that libnuma is not needed.
bool bind_to_node(std::byte* data, std::size_t num_bytes, int node) {
  constexpr int kBind = 2;  // MPOL_BIND
  constexpr std::size_t kWordBits = 8 * sizeof(unsigned long);
  if (node < 0 || node >= kMaxNumaNodes) return false;
  std::array<unsigned long, kMaxNumaNodes / kWordBits> mask{};
  const auto bit = static_cast<std::size_t>(node);
  mask[bit / kWordBits] |= 1ul << (bit % kWordBits);
  return syscall(SYS_mbind, data, num_bytes, kBind, mask.data(), kMaxNumaNodes, 0) == 0;
}

// Faults in one stripe; 0 or the error. Old kernels lack MADV_POPULATE_WRITE: there a write to each
// page does it, at the price of a SIGBUS instead of an error when memory ends, which is why it is
// only the second choice.
int populate(std::byte* data, std::size_t num_bytes) {
  if (madvise(data, num_bytes, MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno;
  for (std::size_t at = 0; at < num_bytes; at += kPageBytes) {
    const_cast<volatile std::byte*>(data)[at] = std::byte{0};
  }
  return 0;
}

// Without this a pool that is too large brings the kernel's killer while it is faulted in, not an
// error.
void check_available(std::size_t num_bytes) {
  std::ifstream meminfo("/proc/meminfo");
  std::string line;
  while (std::getline(meminfo, line)) {
    std::size_t available_kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %zu kB", &available_kib) != 1) continue;
    if (num_bytes / 1024 > available_kib) {
      fail("allocation (with " + std::to_string(available_kib * 1024) + " bytes available)",
           num_bytes, ENOMEM);
    }
    return;
  }
}

int default_threads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u));
}

Mapping map(std::size_t num_bytes) {
  check_available(num_bytes);
  try {
    return Mapping(num_bytes);
  } catch (const std::bad_alloc&) {
    fail("mapping", num_bytes, errno);
  }
}

// The kernel says it for each mapping: a line with its range, later one with what is huge in it.
std::size_t count_huge_bytes(std::span<const std::byte> range) {
  const auto begin = reinterpret_cast<std::uintptr_t>(range.data());
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool is_inside = false;
  std::size_t found = 0;
  while (std::getline(smaps, line)) {
    std::uintptr_t from = 0;
    std::uintptr_t to = 0;
    std::size_t kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2) {
      is_inside = from < begin + range.size() && to > begin;
    } else if (is_inside && std::sscanf(line.c_str(), "AnonHugePages: %zu kB", &kib) == 1) {
      found += kib * 1024;
    }
  }
  return std::min(found, range.size());
}

}  // namespace

PinnedPool::PinnedPool(const PoolOptions& options, const PoolProgress& progress)
    : mapping_(map(static_cast<std::size_t>(options.num_bytes))) {
  const auto started = std::chrono::steady_clock::now();
  const std::size_t num_bytes = mapping_.size();
  madvise(data(), num_bytes, MADV_DONTFORK);
  madvise(data(), num_bytes, MADV_DONTDUMP);
  if (!options.hugepages) madvise(data(), num_bytes, MADV_NOHUGEPAGE);
  if (options.numa_node >= 0) numa_bound_ = bind_to_node(data(), num_bytes, options.numa_node);
  fault_in(options.num_threads > 0 ? options.num_threads : default_threads(), progress);
  pin_ = options.pin ? std::make_unique<CudaPin>(bytes()) : std::make_unique<CudaPin>();
  ready_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  huge_bytes_ = count_huge_bytes(bytes());
}

void PinnedPool::fault_in(int num_threads, const PoolProgress& progress) {
  std::atomic<std::size_t> next{0};
  std::atomic<std::int64_t> done_bytes{0};
  std::atomic<int> error{0};
  std::mutex mutex;
  std::condition_variable finished;
  int running = num_threads;

  const auto work = [&] {
    for (;;) {
      const std::size_t begin = next.fetch_add(kStripeBytes);
      if (begin >= bytes().size() || error.load() != 0) break;
      const std::size_t length = std::min(kStripeBytes, bytes().size() - begin);
      if (const int code = populate(data() + begin, length); code != 0) error.store(code);
      done_bytes.fetch_add(static_cast<std::int64_t>(length));
    }
    const std::lock_guard lock(mutex);
    if (--running == 0) finished.notify_one();
  };
  std::vector<std::jthread> threads;
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(work);
  {
    std::unique_lock lock(mutex);
    while (!finished.wait_for(lock, std::chrono::seconds(1), [&] { return running == 0; })) {
      if (progress) progress(done_bytes.load());
    }
  }
  threads.clear();
  if (error.load() != 0) fail("allocation", bytes().size(), error.load());
}

}  // namespace radixkv
