// Owners of the CUDA objects that this room makes. All are made at start and given back at the end.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "cuda/cuda_check.h"

namespace radixkv::cuda {

// Makes a device current in a scope: streams and launches belong to the thread's current device.
class DeviceScope {
 public:
  explicit DeviceScope(int device) : device_(device) {
    RADIXKV_CUDA_CHECK(cudaGetDevice(&before_));
    if (before_ != device) RADIXKV_CUDA_CHECK(cudaSetDevice(device));
  }
  ~DeviceScope() {
    if (before_ != device_) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int device_;
  int before_ = 0;
};

// An event without timing. It counts as reached until it is first recorded.
class Event {
 public:
  // Whoever waits spins, which is soonest, or sleeps.
  enum class Waiting : unsigned { kSpin = 0, kSleep = cudaEventBlockingSync };

  explicit Event(Waiting waiting = Waiting::kSpin) {
    const unsigned flags = cudaEventDisableTiming | static_cast<unsigned>(waiting);
    RADIXKV_CUDA_CHECK(cudaEventCreateWithFlags(&event_, flags));
  }
  ~Event() {
    if (event_ != nullptr) static_cast<void>(cudaEventDestroy(event_));
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) { RADIXKV_CUDA_CHECK(cudaEventRecord(event_, stream)); }
  // What is queued on `stream` from now on begins after the last record.
  void hold(cudaStream_t stream) const {
    RADIXKV_CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0));
  }
  void wait() const { RADIXKV_CUDA_CHECK(cudaEventSynchronize(event_)); }
  bool reached() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    RADIXKV_CUDA_CHECK(status);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A stream that does not wait for the default stream; its kernels go first where a multiprocessor
// falls free.
class Stream {
 public:
  Stream() {
    int least = 0;
    int greatest = 0;
    RADIXKV_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    RADIXKV_CUDA_CHECK(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
  }
  ~Stream() {
    static_cast<void>(cudaStreamSynchronize(stream_));
    static_cast<void>(cudaStreamDestroy(stream_));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

struct FreeDevice {
  void operator()(void* memory) const { static_cast<void>(cudaFree(memory)); }
};
struct FreePinned {
  void operator()(void* memory) const { static_cast<void>(cudaFreeHost(memory)); }
};
template <typename T>
using DeviceArray = std::unique_ptr<T[], FreeDevice>;
template <typename T>
using PinnedArray = std::unique_ptr<T[], FreePinned>;

template <typename T>
DeviceArray<T> make_device_array(std::size_t count) {
  void* memory = nullptr;
  RADIXKV_CUDA_CHECK(cudaMalloc(&memory, count * sizeof(T)));
  return DeviceArray<T>(static_cast<T*>(memory));
}

template <typename T>
PinnedArray<T> make_pinned_array(std::size_t count) {
  void* memory = nullptr;
  RADIXKV_CUDA_CHECK(cudaMallocHost(&memory, count * sizeof(T)));
  return PinnedArray<T>(static_cast<T*>(memory));
}

}  // namespace radixkv::cuda
