// PinnedPool is the memory tier's bytes: one mapping, allocated once, ready for use at full speed.
//
//   [ unit 0 | unit 1 | unit 2 | … ]     one memfd, so that another process can map it later
//
// The constructor does all that is slow: binds to a NUMA node, asks for huge pages, faults every
// page in with several threads (a 100 GiB pool must not take minutes) and pins it through the CUDA
// driver where there is one. Huge pages, NUMA and pinning are best effort and reported; memory
// itself is not: without it the constructor throws TierFailure("memory", "open", …).
//
// Invariant: the mapping neither moves nor changes its length while the object lives.
// Thread safety: the fields from any thread; who may touch which bytes is the caller's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "memory/cuda_driver.h"

namespace radixkv {

struct PoolOptions {
  std::int64_t num_bytes = 0;
  bool hugepages = true;
  int numa_node = -1;  // -1: wherever the kernel puts it
  bool pin = true;
  int num_threads = 0;  // that fault pages in; 0: one a core, at most 16
};

// Called about once a second from the constructing thread with the bytes that are faulted in so
// far.
using PoolProgress = std::function<void(std::int64_t done_bytes)>;

class PinnedPool {
 public:
  explicit PinnedPool(const PoolOptions& options, const PoolProgress& progress = {});
  ~PinnedPool();
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  std::span<std::byte> bytes() const { return {data_, num_bytes_}; }
  std::byte* data() const { return data_; }
  bool hugepages() const { return hugepages_; }
  bool numa_bound() const { return numa_bound_; }
  bool pinned() const { return pin_->pinned(); }
  const std::string& pin_reason() const { return pin_->reason(); }
  double prefault_s() const { return prefault_s_; }

 private:
  void map();
  void fault_in(int num_threads, const PoolProgress& progress);

  std::size_t num_bytes_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  bool hugepages_ = false;
  bool numa_bound_ = false;
  double prefault_s_ = 0;
  std::unique_ptr<CudaPin> pin_;
};

}  // namespace radixkv
