#include "bind/index_arguments.h"

#include <algorithm>
#include <string_view>

namespace radixkv::bind {

namespace py = pybind11;

Tier parse_tier(const std::string& name) {
  if (name == "memory") return Tier::kMemory;
  if (name == "disk") return Tier::kDisk;
  throw py::value_error("tier: expected 'memory' or 'disk', got '" + name + "'");
}

std::uint64_t parse_count(const char* name, std::int64_t count) {
  if (count < 0) {
    throw py::value_error(std::string(name) + ": expected at least 0, got " +
                          std::to_string(count));
  }
  return static_cast<std::uint64_t>(count);
}

NamespaceDigest parse_digest(const py::bytes& digest) {
  const auto text = static_cast<std::string_view>(digest);
  NamespaceDigest result;
  if (text.size() != result.size()) {
    throw py::value_error("digest: expected 16 bytes, got " + std::to_string(text.size()));
  }
  std::copy(text.begin(), text.end(), result.begin());
  return result;
}

}  // namespace radixkv::bind
