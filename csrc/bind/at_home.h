// What a process made is ended by that process. A fork of it has none of its threads, and shares
// its files: there the copy is left as it is.
#pragma once

#include <unistd.h>

#include <memory>

namespace radixkv::bind {

template <class Value>
struct DeleteAtHome {
  pid_t home = getpid();

  void operator()(Value* value) const {
    if (getpid() == home) delete value;
  }
};

// Owns a value, but not in a fork.
template <class Value>
using AtHome = std::unique_ptr<Value, DeleteAtHome<Value>>;

}  // namespace radixkv::bind
