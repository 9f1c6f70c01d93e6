#include "bind/subtree_values.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bind/show_values.h"
#include "index/mark_table.h"

namespace radixkv::bind {

namespace py = pybind11;

namespace {

void bind_mark(py::module_& module) {
  py::class_<PyMark> mark(module, "SubtreeMark", "What was said about a prefix.");
  mark.def_property_readonly(
          "digest",
          [](const PyMark& self) {
            return py::bytes(reinterpret_cast<const char*>(self.values.digest.data()),
                             self.values.digest.size());
          },
          "The namespace's.")
      .def_property_readonly(
          "tokens",
          [](const PyMark& self) {
            return py::array_t<Token>(static_cast<py::ssize_t>(self.values.prefix.size()),
                                      self.values.prefix.data());
          },
          "The prefix. Shape: (n,), uint32.")
      .def_property_readonly("priority", [](const PyMark& self) { return self.values.priority; })
      .def_property_readonly("time_to_live",
                             [](const PyMark& self) { return self.values.time_to_live; })
      .def_property_readonly("memory_quota_bytes",
                             [](const PyMark& self) { return self.quota(Tier::kMemory); })
      .def_property_readonly("disk_quota_bytes",
                             [](const PyMark& self) { return self.quota(Tier::kDisk); })
      .def_property_readonly(
          "memory_charged_bytes", [](const PyMark& self) { return self.charged(Tier::kMemory); },
          "What the quota is charged for; 0 without one.")
      .def_property_readonly("disk_charged_bytes",
                             [](const PyMark& self) { return self.charged(Tier::kDisk); })
      .def_property_readonly(
          "pins",
          [](const PyMark& self) {
            py::typing::Dict<py::str, std::optional<py::int_>> pins;
            for (const auto& [owner, until] : self.values.pins) {
              pins[py::str(owner)] = until == kForever ? py::object(py::none()) : py::int_(until);
            }
            return pins;
          },
          "Owners, and when their pins end; None is never.");
  show_values(mark);
}

void bind_stats(py::module_& module) {
  const auto count = [](std::uint64_t SubtreeStats::*member) {
    return [member](const PySubtreeStats& self) { return self.stats.*member; };
  };
  py::class_<PySubtreeStats> stats(module, "SubtreeStats", "How much of a subtree is kept.");
  stats.def_property_readonly("chunks", count(&SubtreeStats::chunks), "Kept on any tier.")
      .def_property_readonly("tokens", count(&SubtreeStats::tokens), "Of these chunks.")
      .def_property_readonly("hits", count(&SubtreeStats::hits),
                             "Admissions that ended on one of them, after the one that stored it.")
      .def_property_readonly("last_use", count(&SubtreeStats::last_use), "The youngest admission.")
      .def_property_readonly(
          "memory_chunks", [](const PySubtreeStats& self) { return self.stats.ready_chunks[0]; },
          "Ready in memory.")
      .def_property_readonly(
          "disk_chunks", [](const PySubtreeStats& self) { return self.stats.ready_chunks[1]; },
          "Ready on disk.")
      .def_property_readonly(
          "memory_bytes", [](const PySubtreeStats& self) { return self.bytes(Tier::kMemory); },
          "Extents in memory, with those still being written.")
      .def_property_readonly(
          "disk_bytes", [](const PySubtreeStats& self) { return self.bytes(Tier::kDisk); },
          "Extents on disk, with those still being written.");
  show_values(stats);
}

}  // namespace

void bind_subtree_values(py::module_& module) {
  bind_mark(module);
  bind_stats(module);
}

}  // namespace radixkv::bind
