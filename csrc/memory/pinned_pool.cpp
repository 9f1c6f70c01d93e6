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

}  // namespace

PinnedPool::PinnedPool(const PoolOptions& options, const PoolProgress& progress)
    : num_bytes_(static_cast<std::size_t>(options.num_bytes)) {
  check_available(num_bytes_);
  map();
  try {
    hugepages_ = options.hugepages && madvise(data_, num_bytes_, MADV_HUGEPAGE) == 0;
    if (options.numa_node >= 0) numa_bound_ = bind_to_node(data_, num_bytes_, options.numa_node);
    fault_in(options.num_threads > 0 ? options.num_threads : default_threads(), progress);
    pin_ = options.pin ? std::make_unique<CudaPin>(bytes()) : std::make_unique<CudaPin>();
  } catch (...) {
    munmap(data_, num_bytes_);
    close(fd_);
    throw;
  }
}

PinnedPool::~PinnedPool() {
  pin_.reset();
  munmap(data_, num_bytes_);
  close(fd_);
}

void PinnedPool::map() {
  fd_ = memfd_create("radixkv-memory", MFD_CLOEXEC);
  if (fd_ < 0) fail("memfd_create", num_bytes_, errno);
  if (ftruncate(fd_, static_cast<off_t>(num_bytes_)) != 0) {
    const int error = errno;
    close(fd_);
    fail("allocation", num_bytes_, error);
  }
  void* mapped = mmap(nullptr, num_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) {
    const int error = errno;
    close(fd_);
    fail("mapping", num_bytes_, error);
  }
  data_ = static_cast<std::byte*>(mapped);
}

void PinnedPool::fault_in(int num_threads, const PoolProgress& progress) {
  const auto started = std::chrono::steady_clock::now();
  std::atomic<std::size_t> next{0};
  std::atomic<std::int64_t> done_bytes{0};
  std::atomic<int> error{0};
  std::mutex mutex;
  std::condition_variable finished;
  int running = num_threads;

  const auto work = [&] {
    for (;;) {
      const std::size_t begin = next.fetch_add(kStripeBytes);
      if (begin >= num_bytes_ || error.load() != 0) break;
      const std::size_t length = std::min(kStripeBytes, num_bytes_ - begin);
      if (const int code = populate(data_ + begin, length); code != 0) error.store(code);
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
  if (error.load() != 0) fail("allocation", num_bytes_, error.load());
  prefault_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

}  // namespace radixkv
