// What is said about subtrees, and how much of one is kept, as Python sees it: units have become
// bytes.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "index/index_values.h"

namespace radixkv::bind {

// What a mark says, in bytes.
struct PyMark {
  MarkValues values;
  std::int64_t unit_bytes;

  std::optional<std::int64_t> quota(Tier tier) const {
    const std::optional<std::uint64_t>& num_units = values.quota_units[index_of(tier)];
    if (!num_units) return std::nullopt;
    return static_cast<std::int64_t>(*num_units) * unit_bytes;
  }
  std::int64_t charged(Tier tier) const {
    return static_cast<std::int64_t>(values.charged_units[index_of(tier)]) * unit_bytes;
  }
};

struct PySubtreeStats {
  SubtreeStats stats;
  std::int64_t unit_bytes;

  std::int64_t bytes(Tier tier) const {
    return static_cast<std::int64_t>(stats.units[index_of(tier)]) * unit_bytes;
  }
};

void bind_subtree_values(pybind11::module_& module);

}  // namespace radixkv::bind
