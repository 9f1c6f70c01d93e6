#include "bind/parts.h"

namespace radixkv::bind {

void bind_executor(pybind11::module_&) {}

}  // namespace radixkv::bind
