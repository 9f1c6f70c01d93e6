#include "cuda/copy_batch.h"

#include <cuda.h>

#include "cuda/cuda_check.h"
#include "cuda/driver_function.h"

namespace radixkv::cuda {
namespace {

// cuMemcpyBatchAsync as CUDA 12.8 declares it; 13.0 gave the name to one without `fail_index`.
using BatchFunction = CUresult (*)(CUdeviceptr* targets, CUdeviceptr* sources, std::size_t* sizes,
                                   std::size_t num_copies, void* attributes,
                                   std::size_t* attribute_indices, std::size_t num_attributes,
                                   std::size_t* fail_index, CUstream stream);
constexpr unsigned kBatchVersion = 12080;

// CUmemcpyAttributes, spelled out so that older headers do: sources are read in the stream's order.
struct BatchAttributes {
  std::uint32_t source_order = 1;  // CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
  std::uint32_t hints[4] = {};     // where managed memory lies: not our case
  std::uint32_t flags = 0;
};

BatchFunction batch_function() {
  static const auto function = reinterpret_cast<BatchFunction>(
      CUDART_VERSION >= 12050 ? find_driver_function("cuMemcpyBatchAsync", kBatchVersion)
                              : nullptr);
  return function;
}

}  // namespace

bool driver_has_batches() { return batch_function() != nullptr; }

void CopyBatch::add(std::byte* target, std::byte* source, std::int64_t num_bytes) {
  const auto size = static_cast<std::size_t>(num_bytes);
  if (!sizes_.empty() && targets_.back() + sizes_.back() == target &&
      sources_.back() + sizes_.back() == source) {
    sizes_.back() += size;
    return;
  }
  targets_.push_back(target);
  sources_.push_back(source);
  sizes_.push_back(size);
}

void CopyBatch::submit(cudaStream_t stream) {
  if (const BatchFunction batch = batch_function(); batch != nullptr && !sizes_.empty()) {
    BatchAttributes attributes;
    std::size_t attribute_index = 0;
    std::size_t fail_index = 0;
    const CUresult status =
        batch(reinterpret_cast<CUdeviceptr*>(targets_.data()),
              reinterpret_cast<CUdeviceptr*>(sources_.data()), sizes_.data(), sizes_.size(),
              &attributes, &attribute_index, 1, &fail_index, stream);
    // The driver's numbers are the runtime's.
    RADIXKV_CUDA_CHECK(static_cast<cudaError_t>(status));
  } else {
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      RADIXKV_CUDA_CHECK(
          cudaMemcpyAsync(targets_[i], sources_[i], sizes_[i], cudaMemcpyDefault, stream));
    }
  }
  clear();
}

void CopyBatch::clear() {
  targets_.clear();
  sources_.clear();
  sizes_.clear();
}

}  // namespace radixkv::cuda
