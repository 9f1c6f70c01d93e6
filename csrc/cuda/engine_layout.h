// What a caller says: where the engine keeps KV, and which tokens to move. Checked here, once for
// all devices.
//
// Thread safety: plain values.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "transfer/params.h"

namespace radixkv::cuda {

// The engine's half of CopyParams, with its arrays. Every vector has one entry a row: [layer][K,V].
struct EngineLayout {
  std::vector<std::byte*> addresses;
  std::vector<std::int64_t> block_strides;
  std::vector<std::int64_t> slot_strides;   // empty where a block is a slot
  std::vector<std::int64_t> piece_strides;  // empty where a row is whole
  std::int64_t block_slots = 1;
  std::int64_t num_pieces = 1;
  std::int64_t num_slots = 0;  // a slot outside 0 … num_slots - 1 is refused
  std::int64_t row_bytes = 0;
  std::int32_t num_kv = 2;  // rows of a layer

  // Throws std::invalid_argument where the fields contradict each other.
  void check() const;

  // Parameters with the engine's half filled in; they point into this object.
  CopyParams params() const;
};

// Slots that the host does not know yet: arrays on the device, complete in the order of a stream.
struct DeviceSlots {
  struct Part {
    const std::int64_t* address;
    std::int64_t num_slots;
  };
  std::vector<Part> parts;
  cudaStream_t stream = nullptr;

  std::int64_t num_slots() const {
    std::int64_t sum = 0;
    for (const Part& part : parts) sum += part.num_slots;
    return sum;
  }
};

// Slices of chunks, and the engine slot of each of their tokens. All arrays are on the host, unless
// the slots are not.
struct Slices {
  std::span<std::byte* const> chunks;  // [num_slices] -> [num_rows, chunk_num_tokens[i], row_bytes]
  std::span<const std::int32_t> chunk_num_tokens;  // [num_slices]
  std::span<const std::int32_t> first, count;  // [num_slices] tokens first … first + count - 1
  std::span<const std::int64_t> slots;         // [sum of count], no slot twice
  std::optional<DeviceSlots> device_slots = std::nullopt;  // in place of `slots`

  std::int64_t num_tokens() const {
    return device_slots ? device_slots->num_slots() : static_cast<std::int64_t>(slots.size());
  }
};

// Slices that own their arrays. Assigning again allocates only where there are more than before.
class SliceArrays {
 public:
  SliceArrays& operator=(const Slices& slices);

  std::int64_t num_tokens() const { return num_tokens_; }

  // Fills in the slices' half of CopyParams; it points into this object. Slots of the device are
  // left out.
  void fill(CopyParams* params) const;

 private:
  std::vector<std::byte*> chunks_;
  std::vector<std::int32_t> chunk_num_tokens_, first_, count_;
  std::vector<std::int64_t> slots_;
  std::int64_t num_tokens_ = 0;
};

// Throws std::invalid_argument where a slot is outside 0 … num_slots - 1.
void check_slots(std::span<const std::int64_t> slots, std::int64_t num_slots);

// Both halves; the result points into both arguments, without slots where they are on the device.
// Throws std::invalid_argument where the slices contradict themselves or the layout.
CopyParams checked_params(const EngineLayout& layout, const Slices& slices);

}  // namespace radixkv::cuda
