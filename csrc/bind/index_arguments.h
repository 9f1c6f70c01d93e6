// Arguments that several parts of the index's bindings take, checked.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "index/index_values.h"

namespace radixkv::bind {

// "memory" or "disk"; anything else is a ValueError, and so is what the others refuse.
Tier parse_tier(const std::string& name);

// At least 0. `name`: of the argument, for the error.
std::uint64_t parse_count(const char* name, std::int64_t count);

// A namespace's 16 bytes.
NamespaceDigest parse_digest(const pybind11::bytes& digest);

}  // namespace radixkv::bind
