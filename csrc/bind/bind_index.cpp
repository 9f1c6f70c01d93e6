#include "bind/parts.h"

namespace radixkv::bind {

void bind_index(pybind11::module_&) {}

}  // namespace radixkv::bind
