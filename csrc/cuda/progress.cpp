#include "cuda/progress.h"

#include <cuda.h>

#include "cuda/driver_function.h"

namespace radixkv::cuda {
namespace {

using ValueFunction = CUresult (*)(CUstream stream, CUdeviceptr address, cuuint64_t value,
                                   unsigned flags);
constexpr unsigned kVersion = 12000;
constexpr unsigned kReaches = CU_STREAM_WAIT_VALUE_GEQ;
constexpr unsigned kAfterAllBefore = CU_STREAM_WRITE_VALUE_DEFAULT;

ValueFunction find(const char* name) {
  void* const function = find_driver_function(name, kVersion);
  if (function == nullptr) throw CudaError(std::string("the CUDA driver has no ") + name);
  return reinterpret_cast<ValueFunction>(function);
}

ValueFunction write_function() {
  static const ValueFunction function = find("cuStreamWriteValue64");
  return function;
}

ValueFunction wait_function() {
  static const ValueFunction function = find("cuStreamWaitValue64");
  return function;
}

CUdeviceptr address_of(const std::uint64_t* word) { return reinterpret_cast<CUdeviceptr>(word); }

// The driver's numbers are the runtime's.
void check_result(CUresult result, const char* call) {
  check(static_cast<cudaError_t>(result), call, __FILE__, __LINE__);
}

}  // namespace

Progress::Progress() : word_(make_pinned_array<std::uint64_t>(1)) {
  write_function();
  wait_function();
  set(0);
}

void Progress::write(cudaStream_t stream, std::uint64_t value) {
  check_result(write_function()(stream, address_of(word_.get()), value, kAfterAllBefore),
               "cuStreamWriteValue64");
}

void Progress::hold(cudaStream_t stream, std::uint64_t value) const {
  if (reached(value)) return;
  check_result(wait_function()(stream, address_of(word_.get()), value, kReaches),
               "cuStreamWaitValue64");
}

}  // namespace radixkv::cuda
