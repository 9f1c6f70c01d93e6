// How a class of values shows itself: SubtreeStats(chunks=2, tokens=128, hits=0, …).
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace radixkv::bind {

// Adds a `__repr__` that has all properties in the order in which they were added.
template <typename Class>
void show_values(Class& cls) {
  cls.def("__repr__", [](const pybind11::object& self) {
    const pybind11::type type = pybind11::type::of(self);
    std::string text;
    for (const auto name : pybind11::list(type.attr("__dict__"))) {
      if (!PyObject_TypeCheck(type.attr(name).ptr(), &PyProperty_Type)) continue;
      text += text.empty() ? "" : ", ";
      text += std::string(pybind11::str(name)) + "=" + std::string(pybind11::repr(self.attr(name)));
    }
    return std::string(pybind11::str(type.attr("__name__"))) + "(" + text + ")";
  });
}

}  // namespace radixkv::bind
