// Progress counts what a lane has done, in a word of pinned memory that streams write and wait for.
//
//   lane     … layer 0 | write 33 | layer 1 | write 34 | …
//   engine   … | hold for 33 | attention of layer 0 | hold for 34 | …
//
// One word says of all transfers how far they are, and the host reads it without asking the driver.
//
// Thread safety: any threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "cuda/resources.h"

namespace radixkv::cuda {

class Progress {
 public:
  // Throws CudaError where the driver cannot let a stream write and wait.
  Progress();

  std::uint64_t read() const {
    return std::atomic_ref<std::uint64_t>(*word_.get()).load(std::memory_order_acquire);
  }
  bool reached(std::uint64_t value) const { return read() >= value; }

  // From the host. REQUIRES: nothing that is queued will write any more.
  void set(std::uint64_t value) {
    std::atomic_ref<std::uint64_t>(*word_.get()).store(value, std::memory_order_release);
  }
  // In the order of `stream`.
  void write(cudaStream_t stream, std::uint64_t value);
  // What is queued on `stream` from now on begins when the count has reached `value`. REQUIRES: the
  // write is queued. Where the two share a hardware queue, or the driver waits for all that is
  // queued (to load a kernel, say), a write that came after its hold would never come.
  void hold(cudaStream_t stream, std::uint64_t value) const;

 private:
  PinnedArray<std::uint64_t> word_;
};

}  // namespace radixkv::cuda
