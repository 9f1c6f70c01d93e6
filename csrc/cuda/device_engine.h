// An engine's memory as the kernel sees it: its layout, checked once and brought to the device
// once.
//
// Thread safety: never changes after construction.
#pragma once

#include <cstdint>

#include "cuda/copy_kernel.h"
#include "cuda/engine_layout.h"
#include "cuda/resources.h"

namespace radixkv::cuda {

class DeviceEngine {
 public:
  // Throws std::invalid_argument where the layout contradicts itself.
  DeviceEngine(EngineLayout layout, int device);
  DeviceEngine(const DeviceEngine&) = delete;
  DeviceEngine& operator=(const DeviceEngine&) = delete;

  const EngineLayout& layout() const { return layout_; }
  int device() const { return device_; }
  const EngineRow* rows() const { return rows_.get(); }  // [num_rows] on the device
  std::int32_t num_rows() const { return static_cast<std::int32_t>(layout_.addresses.size()); }
  std::int32_t num_kv() const { return layout_.num_kv; }
  std::int32_t num_layers() const { return num_rows() / num_kv(); }
  std::int64_t row_bytes() const { return layout_.row_bytes; }
  std::int64_t piece_bytes() const { return layout_.row_bytes / layout_.num_pieces; }
  std::int64_t layer_bytes() const { return num_kv() * row_bytes(); }  // of one token
  std::int64_t token_bytes() const { return num_rows() * row_bytes(); }
  int vector_bytes() const { return vector_bytes_; }  // engine_vector_bytes()

 private:
  EngineLayout layout_;
  int device_;
  int vector_bytes_ = 1;
  DeviceArray<EngineRow> rows_;
};

}  // namespace radixkv::cuda
