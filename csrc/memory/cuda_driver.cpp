#include "memory/cuda_driver.h"

#include <dlfcn.h>

namespace radixkv {
namespace {

// The few calls of libcuda.so.1 that pinning needs, with the driver's own types spelled out.
struct Driver {
  int (*init)(unsigned flags) = nullptr;
  int (*device_get)(int* device, int ordinal) = nullptr;
  int (*context_get_current)(void** context) = nullptr;
  int (*context_set_current)(void* context) = nullptr;
  int (*primary_context_retain)(void** context, int device) = nullptr;
  int (*register_range)(void* start, std::size_t num_bytes, unsigned flags) = nullptr;
  int (*unregister_range)(void* start) = nullptr;
  std::string missing;
};

constexpr unsigned kRegisterPortable =
    0x01;  // CU_MEMHOSTREGISTER_PORTABLE: pinned for every context

template <typename Function>
void find(void* library, const char* name, Function* function, std::string* missing) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr) *missing = std::string("libcuda.so.1 has no ") + name;
}

Driver open_driver() {
  Driver driver;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    driver.missing = "no CUDA driver (libcuda.so.1) on this machine";
    return driver;
  }
  find(library, "cuInit", &driver.init, &driver.missing);
  find(library, "cuDeviceGet", &driver.device_get, &driver.missing);
  find(library, "cuCtxGetCurrent", &driver.context_get_current, &driver.missing);
  find(library, "cuCtxSetCurrent", &driver.context_set_current, &driver.missing);
  find(library, "cuDevicePrimaryCtxRetain", &driver.primary_context_retain, &driver.missing);
  find(library, "cuMemHostRegister_v2", &driver.register_range, &driver.missing);
  find(library, "cuMemHostUnregister", &driver.unregister_range, &driver.missing);
  return driver;
}

const Driver& driver() {
  static const Driver instance = open_driver();
  return instance;
}

// Registration needs a current context. The engine's own is used where there is one; otherwise the
// primary context of device 0, which is kept: the engine will want it in a moment.
std::string ensure_context() {
  const Driver& cuda = driver();
  if (!cuda.missing.empty()) return cuda.missing;
  if (const int error = cuda.init(0); error != 0) {
    return "cuInit failed with error " + std::to_string(error);
  }
  void* context = nullptr;
  if (cuda.context_get_current(&context) == 0 && context != nullptr) return "";
  int device = 0;
  if (cuda.device_get(&device, 0) != 0) return "no CUDA device";
  if (const int error = cuda.primary_context_retain(&context, device); error != 0) {
    return "cuDevicePrimaryCtxRetain failed with error " + std::to_string(error);
  }
  if (const int error = cuda.context_set_current(context); error != 0) {
    return "cuCtxSetCurrent failed with error " + std::to_string(error);
  }
  return "";
}

}  // namespace

CudaPin::CudaPin(std::span<std::byte> range) : reason_(ensure_context()) {
  if (!reason_.empty()) return;
  const int error = driver().register_range(range.data(), range.size(), kRegisterPortable);
  if (error != 0) {
    reason_ = "cuMemHostRegister failed with error " + std::to_string(error);
    return;
  }
  pinned_ = range.data();
}

CudaPin::~CudaPin() {
  // At process exit the driver may be gone already; its refusal then means nothing.
  if (pinned_ != nullptr) driver().unregister_range(pinned_);
}

}  // namespace radixkv
