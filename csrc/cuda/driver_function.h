// Finds a function of the CUDA driver, which the module is not linked with: it loads without one.
#pragma once

#include <cuda_runtime_api.h>

namespace radixkv::cuda {

// The function as this version of CUDA declares it (12080 is 12.8), or null where the driver lacks
// it.
inline void* find_driver_function(const char* name, [[maybe_unused]] unsigned version) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &found);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found);
#endif
  if (status == cudaSuccess && found == cudaDriverEntryPointSuccess) return function;
  static_cast<void>(cudaGetLastError());  // its absence is no error
  return nullptr;
}

}  // namespace radixkv::cuda
