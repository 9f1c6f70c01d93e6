// TokenRing gives each transfer room for its table of tokens, on the host and at the same place on
// the device.
//
//   [ · · | transfer 7 | transfer 8 | transfer 9 | · · · ]     taken at the head,
//           ^ tail                                 ^ head      given back at the tail
//
// Positions count up forever; a table that would cross the ring's end begins at its start instead.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "cuda/copy_kernel.h"
#include "cuda/resources.h"

namespace radixkv::cuda {

class TokenRing {
 public:
  explicit TokenRing(std::int64_t capacity_tokens)
      : capacity_(capacity_tokens),
        host_(make_pinned_array<TokenCopy>(static_cast<std::size_t>(capacity_tokens))),
        device_(make_device_array<TokenCopy>(static_cast<std::size_t>(capacity_tokens))) {}

  std::int64_t capacity() const { return capacity_; }

  // The position where `num_tokens` entries begin, or nothing while earlier transfers hold the
  // room.
  std::optional<std::int64_t> take(std::int64_t num_tokens) {
    if (tail_ == head_) head_ = tail_ = 0;  // empty: all of it in one piece
    const std::int64_t offset = head_ % capacity_;
    const std::int64_t begin = offset + num_tokens > capacity_ ? head_ - offset + capacity_ : head_;
    if (begin + num_tokens - tail_ > capacity_) return std::nullopt;
    head_ = begin + num_tokens;
    return begin;
  }

  // Everything before `position` is free again.
  void give_back(std::int64_t position) { tail_ = position; }

  std::span<TokenCopy> host(std::int64_t begin, std::int64_t num_tokens) {
    return {host_.get() + begin % capacity_, static_cast<std::size_t>(num_tokens)};
  }
  const TokenCopy* device(std::int64_t begin) const { return device_.get() + begin % capacity_; }

  // Brings a table to the device, in the order of `stream`.
  void upload(std::int64_t begin, std::int64_t num_tokens, cudaStream_t stream) {
    const std::int64_t offset = begin % capacity_;
    RADIXKV_CUDA_CHECK(cudaMemcpyAsync(device_.get() + offset, host_.get() + offset,
                                       static_cast<std::size_t>(num_tokens) * sizeof(TokenCopy),
                                       cudaMemcpyHostToDevice, stream));
  }

 private:
  std::int64_t capacity_;
  std::int64_t head_ = 0;
  std::int64_t tail_ = 0;
  PinnedArray<TokenCopy> host_;
  DeviceArray<TokenCopy> device_;
};

}  // namespace radixkv::cuda
