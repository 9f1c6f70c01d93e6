#include "cuda/copy_batch.h"

#include <cuda.h>

#include <limits>

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

constexpr std::size_t kMinEvenRun = 6;  // a call of its own costs as much as so many of a batch
constexpr std::intptr_t kMaxPitch = std::numeric_limits<std::int32_t>::max();  // every device's

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

std::size_t CopyBatch::submit(cudaStream_t stream) {
  std::size_t num_pitched = 0;
  std::size_t num_left = 0;  // what no pitched copy takes moves to the front
  for (std::size_t i = 0; i < sizes_.size();) {
    const std::size_t count = even_run(i);
    if (count >= kMinEvenRun) {
      copy_even_run(i, count, stream);
      ++num_pitched;
      i += count;
    } else {
      targets_[num_left] = targets_[i];
      sources_[num_left] = sources_[i];
      sizes_[num_left++] = sizes_[i++];
    }
  }
  targets_.resize(num_left);
  sources_.resize(num_left);
  sizes_.resize(num_left);
  copy_rest(stream);
  clear();
  return num_pitched + num_left;
}

// How many copies from this one on are of one size and equally far apart, on both sides.
std::size_t CopyBatch::even_run(std::size_t begin) const {
  const auto distance = [](const std::vector<std::byte*>& places, std::size_t i) {
    return reinterpret_cast<std::intptr_t>(places[i + 1]) -
           reinterpret_cast<std::intptr_t>(places[i]);
  };
  const auto is_pitch = [&](std::intptr_t step) {
    return step >= static_cast<std::intptr_t>(sizes_[begin]) && step <= kMaxPitch;
  };
  const std::size_t last = sizes_.size() - 1;
  if (begin == last) return 1;
  const std::intptr_t target_step = distance(targets_, begin);
  const std::intptr_t source_step = distance(sources_, begin);
  if (!is_pitch(target_step) || !is_pitch(source_step)) return 1;
  std::size_t end = begin;
  while (end < last && sizes_[end + 1] == sizes_[begin] && distance(targets_, end) == target_step &&
         distance(sources_, end) == source_step) {
    ++end;
  }
  return end - begin + 1;
}

// REQUIRES: an even run of at least 2.
void CopyBatch::copy_even_run(std::size_t begin, std::size_t count, cudaStream_t stream) const {
  const auto pitch = [&](const std::vector<std::byte*>& places) {
    return static_cast<std::size_t>(places[begin + 1] - places[begin]);
  };
  RADIXKV_CUDA_CHECK(cudaMemcpy2DAsync(targets_[begin], pitch(targets_), sources_[begin],
                                       pitch(sources_), sizes_[begin], count, cudaMemcpyDefault,
                                       stream));
}

void CopyBatch::copy_rest(cudaStream_t stream) {
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
}

void CopyBatch::clear() {
  targets_.clear();
  sources_.clear();
  sizes_.clear();
}

}  // namespace radixkv::cuda
