// The native module: lists its parts, holds no logic.
#include "bind/parts.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "radixkv's C++ parts. Use the names in `radixkv` instead.";
  radixkv::bind::bind_runs(module);
  radixkv::bind::bind_index(module);
  radixkv::bind::bind_follower(module);
  radixkv::bind::bind_inspection(module);
  radixkv::bind::bind_executor(module);
}
