// Pauses let the engine's own copies in between those of a long transfer.
//
// The copy engine serves one stream for as long as that has copies ready: beside 2 GiB that were
// queued without a pause, the tokens of a decode step took 37 ms to the host of an H200, and so did
// the inputs of the next one the other way. It turns to the next stream when it has to wait. Events
// alone changed nothing there, perhaps since the driver sees that nothing lies between them; with a
// word that the other stream writes between them it does wait.
//
//   copy stream    64 MiB … |record|              |hold| 64 MiB …
//   other stream            |hold  | write |record|
//
// Thread safety: one thread.
#pragma once

#include <cstdint>

#include "cuda/progress.h"
#include "cuda/resources.h"

namespace radixkv::cuda {

class Pauses {
 public:
  explicit Pauses(std::int64_t every_bytes) : every_bytes_(every_bytes) {}

  // Before a copy of so many bytes is queued on `stream`.
  void before_copy(std::int64_t num_bytes, cudaStream_t stream) {
    if (num_bytes_ >= every_bytes_) {
      begin_.record(stream);
      begin_.hold(other_.get());
      word_.write(other_.get(), ++count_);
      end_.record(other_.get());
      end_.hold(stream);
      num_bytes_ = 0;
    }
    num_bytes_ += num_bytes;
  }

 private:
  const std::int64_t every_bytes_;
  std::int64_t num_bytes_ = 0;  // since the last one
  std::uint64_t count_ = 0;
  Stream other_;
  Event begin_, end_;
  Progress word_;
};

}  // namespace radixkv::cuda
