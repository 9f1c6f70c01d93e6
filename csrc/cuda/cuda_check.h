// RADIXKV_CUDA_CHECK turns a failed call of the CUDA runtime into an exception that says where and
// what.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace radixkv::cuda {

class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw CudaError(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                  cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

}  // namespace radixkv::cuda

#define RADIXKV_CUDA_CHECK(call) ::radixkv::cuda::check((call), #call, __FILE__, __LINE__)
