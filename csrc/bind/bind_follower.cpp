// ChunkFollower: checks arguments, calls it. No logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include "bind/arrays.h"
#include "bind/parts.h"
#include "index/chunk_follower.h"

namespace radixkv::bind {

using namespace pybind11::literals;

void bind_follower(py::module_& module) {
  using Events = py::array_t<IndexEvent, py::array::c_style>;
  using Tokens = py::array_t<Token, py::array::c_style>;
  using Kept = py::typing::Tuple<py::int_, py::int_>;
  py::class_<ChunkFollower>(module, "ChunkFollower", "What an index keeps, by its events alone.")
      .def(py::init<std::uint32_t>(), "chunk_tokens"_a)
      .def(
          "apply",
          [](ChunkFollower& self, const py::array& given, const Tokens& tokens) {
            if (!Events::check_(given)) {
              throw py::type_error("events: expected an array of EVENT_DTYPE, got " +
                                   py::str(given.dtype()).cast<std::string>());
            }
            const Events events(given);
            const std::span all(tokens.data(), static_cast<std::size_t>(tokens.size()));
            for (py::ssize_t i = 0; i < events.size(); ++i) self.apply(events.data()[i], all);
          },
          "events"_a, py::arg("tokens").noconvert(),
          "Takes in events as `RadixIndex.take_events` gives them, with their tokens.")
      .def(
          "match",
          [](const ChunkFollower& self, py::handle tokens, std::uint32_t space) -> Kept {
            const TokenArgument argument(tokens);
            const ChunkFollower::Kept kept = self.match(space, argument.view(py::none()));
            return py::make_tuple(kept.num_tokens, kept.num_memory_tokens);
          },
          "tokens"_a, "namespace"_a = 0,
          "(tokens of the longest prefix that is kept on any tier, and in memory)")
      .def("__len__", &ChunkFollower::num_chunks);
}

}  // namespace radixkv::bind
