// What Python hands over as arrays, checked and viewed in place.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bind/unlock.h"
#include "core/types.h"
#include "index/tokens.h"

namespace radixkv::bind {

namespace py = pybind11;

// Holds a buffer of int32, int64 or uint32 for as long as a call needs it. Anything else is a
// TypeError.
class TokenArgument {
 public:
  explicit TokenArgument(py::handle tokens);
  ~TokenArgument() {
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
  }
  TokenArgument(const TokenArgument&) = delete;
  TokenArgument& operator=(const TokenArgument&) = delete;

  // The tokens, or only the first `limit` of them.
  TokenView view(const py::object& limit) const;

 private:
  bool view_array(py::handle tokens);
  void view_buffer(py::handle tokens);

  Py_buffer buffer_{};  // obj is null where the tokens are a numpy array
  const void* data_ = nullptr;
  std::size_t num_tokens_ = 0;
  TokenType type_ = TokenType::kUint32;
};

// A 1-d array of CHUNK_DTYPE, held for as long as a call needs it. Anything else is a TypeError.
class ChunkArgument {
 public:
  explicit ChunkArgument(const py::object& chunks);
  std::span<const ChunkRef> view() const {
    return {array_.data(), static_cast<std::size_t>(array_.size())};
  }

 private:
  py::array_t<ChunkRef, py::array::c_style> array_;
};

py::array to_array(const std::vector<ChunkRef>& chunks);

// Frees the GIL while it lives, where that pays: handing it over costs more than a short walk.
// Destroyed after any lock of the index is, so that no one waits for the GIL with the lock held.
class LongWalk {
 public:
  LongWalk(const TokenView& tokens, bool release_gil) {
    if (release_gil && tokens.size() > kLongTokens) unlock_.emplace();
  }

 private:
  static constexpr std::size_t kLongTokens = 65536;
  std::optional<Unlock> unlock_;
};

}  // namespace radixkv::bind
