// What a disk tier's file holds, for Python: a look from outside. radixkv/tiers/disk.py is its
// typed face.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bind/disk_arrays.h"
#include "bind/parts.h"
#include "bind/paths.h"
#include "bind/unlock.h"
#include "core/checksum.h"
#include "disk/inspection.h"

namespace radixkv::bind {

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

std::optional<py::bytes> read(const Inspection& self, std::size_t index) {
  std::vector<std::byte> payload;
  {
    const Unlock unlock;
    std::optional<std::vector<std::byte>> found = self.read(index);
    if (!found) return std::nullopt;
    payload = std::move(*found);
  }
  return py::bytes(reinterpret_cast<const char*>(payload.data()), payload.size());
}

}  // namespace

void bind_inspection(py::module_& module) {
  py::class_<Inspection>(module, "DiskInspection")
      .def(py::init([](const py::bytes& path) {
             const std::string parsed = parse_path(path);
             const Unlock unlock;
             return std::make_unique<Inspection>(parsed);
           }),
           "path"_a)
      .def("facts",
           [](const Inspection& self) -> Fields {
             const DiskShape& shape = self.file().shape;
             return py::dict("format_version"_a = self.file().version,
                             "layout_digest"_a = to_bytes(shape.layout_digest),
                             "unit_bytes"_a = shape.unit_bytes,
                             "chunk_tokens"_a = shape.chunk_tokens,
                             "capacity_units"_a = shape.capacity_units,
                             "world_size"_a = shape.world_size, "rank"_a = shape.rank);
           })
      .def("restored",
           [](const Inspection& self) {
             return restored_fields(self.recovered(), self.file().group_id);
           })
      .def("verify", &Inspection::verify, "index"_a, py::call_guard<Unlock>())
      .def("read", &read, "index"_a,
           "The bytes of a chunk in stored form; None where they are damaged.");
  module.def(
      "checksum",
      [](const py::bytes& bytes) {
        const auto view = static_cast<std::string_view>(bytes);
        return xxh3_64(view.data(), view.size());
      },
      "bytes"_a, "XXH3-64, as headers and payloads have it.");
}

}  // namespace radixkv::bind
