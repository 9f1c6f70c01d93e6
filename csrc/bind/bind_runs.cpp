// Runs that are kept anywhere: checks arguments, takes the lock, calls the index. No logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <vector>

#include "bind/arrays.h"
#include "bind/parts.h"
#include "bind/shared_index.h"
#include "bind/show_values.h"
#include "bind/unlock.h"
#include "index/run_finder.h"

namespace radixkv::bind {

using namespace pybind11::literals;

namespace {

// What a search found, for Python: keeps its index.
struct PyRuns {
  IndexPointer index;
  KeptRuns found;
};

template <class Value>
py::array_t<Value> column(const PyRuns& self, Value KeptRun::*field) {
  py::array_t<Value> result(static_cast<py::ssize_t>(self.found.runs.size()));
  Value* out = result.mutable_data();
  for (const KeptRun& run : self.found.runs) *out++ = run.*field;
  return result;
}

const RunFinder& finder_of(const RadixIndex& index) {
  if (index.runs() == nullptr) {
    throw std::invalid_argument("find_runs: expected an index that index_runs() was called on");
  }
  return *index.runs();
}

PyRuns find_runs(const IndexPointer& index, py::handle tokens,
                 std::optional<std::uint32_t> min_length, std::uint32_t space) {
  const TokenArgument argument(tokens);
  const TokenView view = argument.view(py::none());
  const Unlock unlock;
  return {index, index->read([&](const RadixIndex& native) {
            const RunFinder& finder = finder_of(native);
            return finder.find(space, view, min_length.value_or(finder.min_length()));
          })};
}

}  // namespace

void bind_index_runs(IndexClass& cls) {
  cls.def(
         "index_runs",
         [](SharedIndex& index, std::uint32_t min_length) { index.index_runs(min_length); },
         "min_length"_a = 64,
         "From now on `find_runs` finds runs of at least so many tokens; a thread of its own files "
         "what is kept.")
      .def("find_runs", &find_runs, "tokens"_a, "min_length"_a = py::none(), "namespace"_a = 0,
           "The longest runs of `tokens` that are kept anywhere, each with one place; at least "
           "`min_length` tokens long, by default what `index_runs` was called with.")
      .def(
          "wait_for_runs",
          [](const SharedIndex& index, double timeout_s) {
            const Unlock unlock;
            return index.wait_for_runs(timeout_s);
          },
          "timeout_s"_a = 60.0,
          "Waits until `find_runs` knows all that is kept; False where that takes longer.")
      .def(
          "run_stats",
          [](const SharedIndex& index) {
            return index.read([](const RadixIndex& native) { return finder_of(native).stats(); });
          },
          "Counts of what `find_runs` goes by.");
}

void bind_runs(py::module_& module) {
  py::class_<RunFinderStats> stats(module, "RunStats");
  stats.def_readonly("num_grams", &RunFinderStats::num_grams)
      .def_readonly("num_bytes", &RunFinderStats::num_bytes)
      .def_readonly("num_waiting", &RunFinderStats::num_waiting);
  show_values(stats);
  py::class_<PyRuns>(module, "KeptRuns",
                     "Runs that are kept, by where they begin in what was asked. None lies inside "
                     "another. It pins nothing.")
      .def("__len__", [](const PyRuns& self) { return self.found.runs.size(); })
      .def_property_readonly(
          "first_tokens", [](const PyRuns& self) { return column(self, &KeptRun::first_token); },
          "Where each begins in what was asked. Shape: (num_runs,), uint32.")
      .def_property_readonly(
          "num_tokens", [](const PyRuns& self) { return column(self, &KeptRun::num_tokens); },
          "Tokens of each.")
      .def_property_readonly(
          "positions", [](const PyRuns& self) { return column(self, &KeptRun::position); },
          "Where each begins in the prompt that is kept.")
      .def_property_readonly(
          "truncated", [](const PyRuns& self) { return self.found.truncated; },
          "Not every place was looked at: a run may be kept longer elsewhere.")
      .def_property_readonly(
          "num_waiting", [](const PyRuns& self) { return self.found.num_waiting; },
          "Chunks that came so shortly before that they were not looked at.")
      .def(
          "slices",
          [](const PyRuns& self, std::size_t number) {
            if (number >= self.found.runs.size()) throw py::index_error("no such run");
            return to_array(self.index->read([&](const RadixIndex& native) {
              return finder_of(native).slices(self.found.runs[number]);
            }));
          },
          "number"_a,
          "The chunks of a run, as they are now; empty once the last of them has gone.");
}

}  // namespace radixkv::bind
