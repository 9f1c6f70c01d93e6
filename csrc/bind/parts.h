// The parts of the native module, one function a part.
#pragma once

#include <pybind11/pybind11.h>

namespace radixkv::bind {

void bind_index(pybind11::module_& module);
void bind_follower(pybind11::module_& module);  // after the index, whose events it takes
void bind_runs(pybind11::module_& module);      // values alone: the index's class adds the calls
void bind_inspection(pybind11::module_& module);
void bind_executor(pybind11::module_& module);

}  // namespace radixkv::bind
