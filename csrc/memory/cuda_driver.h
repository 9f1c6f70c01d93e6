// Pinning through the CUDA driver, found at run time: no CUDA is needed to build.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace radixkv {

// Pins a range for the GPU while it lives. No driver, no device or a refusal is normal: then
// `pinned()` is false and `reason()` says why.
class CudaPin {
 public:
  CudaPin() = default;
  explicit CudaPin(std::span<std::byte> range);
  ~CudaPin();
  CudaPin(const CudaPin&) = delete;
  CudaPin& operator=(const CudaPin&) = delete;

  bool pinned() const { return pinned_ != nullptr; }
  const std::string& reason() const { return reason_; }

 private:
  std::byte* pinned_ = nullptr;
  std::string reason_ = "not asked for";
};

}  // namespace radixkv
