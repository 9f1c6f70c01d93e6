// A sample of an index: checks arguments, takes the lock, calls it. No logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstring>

#include "bind/shared_index.h"
#include "index/chunk_sample.h"

namespace radixkv::bind {

namespace py = pybind11;
using namespace pybind11::literals;

void bind_index_sample(IndexClass& cls) {
  using Head = py::typing::Tuple<py::int_, py::int_, py::array_t<Token>>;
  cls.def(
         "sample_chunks",
         [](const SharedIndex& index, std::uint64_t first, std::uint64_t step,
            std::uint32_t count) {
           const auto rows = index.read([&](const RadixIndex& native) {
             return ChunkSample::take(native, first, step, count);
           });
           const auto width = static_cast<py::ssize_t>(sizeof(ChunkSample::Row) / sizeof(Token));
           py::array_t<std::uint32_t> result({static_cast<py::ssize_t>(rows.size()), width});
           if (!rows.empty()) {
             std::memcpy(result.mutable_data(), rows.data(), rows.size() * sizeof(rows[0]));
           }
           return result;
         },
         "first"_a, "step"_a, "count"_a,
         "Some of what is kept. A row has namespace, tokens, uses, whether memory has it, and the "
         "tree's nodes above it from the root down, 0xFFFFFFFF behind the last.")
      .def(
          "node_head",
          [](const SharedIndex& index, NodeId node, std::uint32_t most_tokens) -> Head {
            const ChunkSample::Head head = index.read([&](const RadixIndex& native) {
              return ChunkSample::head(native, node, most_tokens);
            });
            const py::array_t<Token> tokens(static_cast<py::ssize_t>(head.tokens.size()),
                                            head.tokens.data());
            return py::make_tuple(head.start, head.end, tokens);
          },
          "node"_a, "most_tokens"_a = 8,
          "(position of its first token, of its end, its first tokens) of a node of a sample.");
}

}  // namespace radixkv::bind
