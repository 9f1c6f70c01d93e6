// What Python holds of an index: the index with its lock, a match, and a pin.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "bind/at_home.h"
#include "index/radix_index.h"

namespace radixkv::bind {

class RunBuilder;

// The index and its lock. Matches run beside each other, anything else alone. No Python object is
// made and no GIL awaited while the lock is held: either could wait for a thread that waits for the
// lock.
class SharedIndex {
 public:
  explicit SharedIndex(const IndexConfig& config);
  ~SharedIndex();

  template <class Call>
  auto read(Call call) const {
    const std::shared_lock lock(mutex_);
    return call(index_);
  }

  template <class Call>
  auto write(Call call) {
    num_writers_.fetch_add(1, std::memory_order_relaxed);
    const std::unique_lock lock(mutex_);
    num_writers_.fetch_sub(1, std::memory_order_relaxed);
    return call(index_);
  }

  // Somebody waits to change the index: who reads again and again lets them.
  bool is_wanted() const { return num_writers_.load(std::memory_order_relaxed) > 0; }

  const IndexConfig& config() const { return index_.config(); }

  // From now on runs are found, and a thread files what comes.
  void index_runs(std::uint32_t min_length);

  // Waits until all that has come is filed; false where that takes longer, or nobody asked for it.
  bool wait_for_runs(double timeout_s) const;

 private:
  mutable std::shared_mutex mutex_;
  std::atomic<int> num_writers_{0};
  RadixIndex index_;
  AtHome<RunBuilder> builder_;  // last: it reads the index until it is gone
};

using IndexPointer = std::shared_ptr<SharedIndex>;

// What a match found, for Python: keeps its index.
struct PyMatch {
  IndexPointer index;
  Match match;
};

// A pin that ends with its object, or before by `close`.
class PrefixHandle {
 public:
  PrefixHandle(IndexPointer index, Pin pin) : index_(std::move(index)), pin_(pin) {}
  PrefixHandle(PrefixHandle&&) = default;
  ~PrefixHandle() { close(); }

  void close() {
    const IndexPointer index = std::move(index_);
    if (index) index->write([&](RadixIndex& native) { native.release(pin_); });
  }

  bool is_closed() const { return index_ == nullptr; }

  SharedIndex& index() const {
    require_open();
    return *index_;
  }

  const Pin& pin() const {
    require_open();
    return pin_;
  }

 private:
  void require_open() const {
    if (index_) return;
    const pybind11::object error =
        pybind11::module_::import("radixkv.errors").attr("HandleClosedError");
    PyErr_SetString(error.ptr(), "handle: expected an open one, this one was closed");
    throw pybind11::error_already_set();
  }

  IndexPointer index_;
  Pin pin_;
};

// The pin of a handle on this very index.
inline const Pin& pin_of(const PrefixHandle& handle, const IndexPointer& index) {
  if (&handle.index() != index.get()) {
    throw pybind11::value_error("handle: expected one of this index, got another index's");
  }
  return handle.pin();
}

using IndexClass = pybind11::class_<SharedIndex, IndexPointer>;

// The calls of bind_runs.cpp and bind_sample.cpp.
void bind_index_runs(IndexClass& index);
void bind_index_sample(IndexClass& index);

}  // namespace radixkv::bind
