// Paths from Python: bytes, as `os.fsencode` makes them of whatever names a file.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace radixkv::bind {

// Throws ValueError where a zero would end the path too early.
inline std::string parse_path(const pybind11::bytes& path) {
  auto parsed = path.cast<std::string>();
  if (parsed.find('\0') != std::string::npos) {
    throw pybind11::value_error("path: expected one without a zero byte");
  }
  return parsed;
}

// As Python names it, whatever bytes it has.
inline pybind11::str show_path(const std::string& path) {
  return pybind11::reinterpret_steal<pybind11::str>(PyUnicode_DecodeFSDefault(path.c_str()));
}

}  // namespace radixkv::bind
