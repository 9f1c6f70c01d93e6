// What a disk file held, as numpy arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include "disk/recovery.h"

namespace radixkv::bind {

// Named values of mixed types, for a dataclass on the Python side.
using Fields = pybind11::typing::Dict<pybind11::str, pybind11::object>;

// The fields of RestoredChunks (radixkv/tiers/disk.py) by name.
Fields restored_fields(const RecoveredChunks& recovered, const Digest& group_id);

pybind11::bytes to_bytes(const Digest& digest);

// Throws std::invalid_argument naming `argument` unless it has 16 bytes.
Digest to_digest(const char* argument, const pybind11::bytes& bytes);

}  // namespace radixkv::bind
