// PinnedPool is the memory tier's bytes: one mapping, allocated once, ready for use at full speed.
//
//   [ unit 0 | unit 1 | unit 2 | … ]     private and anonymous: of shared memory, most systems
//                                        give no huge pages
//
// The constructor does all that is slow: binds to a NUMA node, asks for huge pages, faults every
// page in with several threads (a 100 GiB pool must not take minutes) and pins it through the CUDA
// driver where there is one. Huge pages, NUMA and pinning are best effort and reported; memory
// itself is not: without it the constructor throws TierFailure("memory", "open", …).
//
// Invariant: the mapping neither moves nor changes its length while the object lives. A fork of the
// process does not have it (what is written to pinned memory after a fork would go to a copy that
// no device knows), nor does a core dump.
// Thread safety: the fields from any thread; who may touch which bytes is the caller's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/huge_pages.h"
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
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;

  std::span<std::byte> bytes() const { return {mapping_.data(), mapping_.size()}; }
  std::byte* data() const { return mapping_.data(); }
  // How much of it lay in huge pages when it was ready.
  std::size_t huge_bytes() const { return huge_bytes_; }
  bool numa_bound() const { return numa_bound_; }
  bool pinned() const { return pin_->pinned(); }
  const std::string& pin_reason() const { return pin_->reason(); }
  double ready_s() const { return ready_s_; }  // faulted in and pinned

 private:
  void fault_in(int num_threads, const PoolProgress& progress);

  Mapping mapping_;
  std::size_t huge_bytes_ = 0;
  bool numa_bound_ = false;
  double ready_s_ = 0;
  std::unique_ptr<CudaPin> pin_;
};

}  // namespace radixkv
