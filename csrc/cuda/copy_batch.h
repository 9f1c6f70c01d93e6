// CopyBatch collects copies and hands them to the copy engine in as few calls as it can:
//
//   equally far apart   [a]   [b]   [c]   [d] → [a][b][c][d]   one pitched copy for all of them
//   all others          one batch (cuMemcpyBatchAsync, CUDA 12.8), 0.5 µs of the CPU a copy,
//                       or one by one where the driver is older, 2 µs each
//
// Calls count twice: the driver takes one at a time, the model's launches among them, and has room
// for so many copies that wait.
//
// Thread safety: one thread.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace radixkv::cuda {

class CopyBatch {
 public:
  // Neighbours on both sides of the last copy are joined to it.
  void add(std::byte* target, std::byte* source, std::int64_t num_bytes);

  // Queues what was added, in any order among itself, and forgets it; gives how many copies the
  // driver was told of. Allocates nothing on the device.
  std::size_t submit(cudaStream_t stream);

  void clear();

 private:
  std::size_t even_run(std::size_t begin) const;
  void copy_even_run(std::size_t begin, std::size_t count, cudaStream_t stream) const;
  void copy_rest(cudaStream_t stream);

  std::vector<std::byte*> targets_;
  std::vector<std::byte*> sources_;
  std::vector<std::size_t> sizes_;
};

// Whether this machine's driver takes batches.
bool driver_has_batches();

}  // namespace radixkv::cuda
