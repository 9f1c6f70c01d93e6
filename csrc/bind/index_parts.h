// What other files add to the class of bind_index.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include "bind/shared_index.h"

namespace radixkv::bind {

void bind_index_subtrees(pybind11::module_& module, IndexClass& index);
void bind_index_saving(pybind11::module_& module, IndexClass& index);

}  // namespace radixkv::bind
