// radixkv.RadixIndex: what is said about subtrees, and looking at them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>
#include <string>

#include "bind/arrays.h"
#include "bind/index_arguments.h"
#include "bind/index_parts.h"
#include "bind/shared_index.h"
#include "bind/subtree_values.h"
#include "index/radix_index.h"

namespace radixkv::bind {

namespace {

using namespace pybind11::literals;

// Chunks, index of each one's parent, all tokens, times, uses.
using PySubtree = py::typing::Tuple<py::array, py::array, py::array, py::array, py::array>;
using PyExpired = py::typing::Tuple<py::array, py::array>;

// Raises radixkv.errors.PinLimitError.
[[noreturn]] void raise_pin_limit(const PinLimitError& error) {
  const py::object type = py::module_::import("radixkv.errors").attr("PinLimitError");
  PyErr_SetString(type.ptr(), error.what());
  throw py::error_already_set();
}

void bind_limits(IndexClass& cls) {
  cls.def(
      "set_priority",
      [](SharedIndex& index, py::handle tokens, std::optional<std::int32_t> priority,
         NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        index.write([&](RadixIndex& native) { native.set_priority(space, view, priority); });
      },
      "tokens"_a, "priority"_a, "namespace"_a = 0,
      R"(Say which subtrees leave before others.

Holds for every chunk whose path begins with `tokens`, kept now or stored later, unless something
else is said about a longer prefix of it.

Args:
    tokens: The prefix; none means the whole namespace.
    priority: What has a lower one leaves first; 0 where nothing is said. None takes back.
    namespace: Which tree.
)");
  cls.def(
      "set_time_to_live",
      [](SharedIndex& index, py::handle tokens, std::optional<std::int64_t> time_to_live,
         NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        std::optional<std::uint64_t> parsed;
        if (time_to_live) parsed = parse_count("time_to_live", *time_to_live);
        index.write([&](RadixIndex& native) { native.set_time_to_live(space, view, parsed); });
      },
      "tokens"_a, "time_to_live"_a, "namespace"_a = 0,
      R"(Let a subtree be forgotten where it is not used.

A chunk that was last used, or stored, at t leaves with the first `advance` to t + time_to_live or
later; with leaves first, as in eviction. Arguments as for `set_priority`.

Args:
    tokens: The prefix.
    time_to_live: In the unit of the `time` that other calls are given. None takes back.
    namespace: Which tree.

Raises:
    ValueError: It is negative.
)");
  cls.def(
      "set_quota",
      [](SharedIndex& index, py::handle tokens, const std::string& tier,
         std::optional<std::int64_t> num_bytes, NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        const Tier parsed = parse_tier(tier);
        std::optional<std::uint64_t> num_units;
        if (num_bytes) {
          const auto unit_bytes = static_cast<std::uint64_t>(index.config().unit_bytes);
          num_units = parse_count("num_bytes", *num_bytes) / unit_bytes;
        }
        index.write([&](RadixIndex& native) { native.set_quota(space, view, parsed, num_units); });
      },
      "tokens"_a, "tier"_a, "num_bytes"_a, "namespace"_a = 0,
      R"(Limit what a subtree may have of a tier.

A chunk is charged to the longest prefix of it that has a quota, and to no other. At the limit the
subtree's own leaves go first; what does not fit even so is not stored. On disk, what one spill
writes may pass the limit until the next; with 0 nothing is spilled.

Args:
    tokens: The prefix; none means the whole namespace.
    tier: "memory" or "disk".
    num_bytes: Rounded down to whole units. None takes back.
    namespace: Which tree.

Raises:
    ValueError: An argument is out of its range.
)");
}

void bind_pins(IndexClass& cls) {
  cls.def(
      "pin",
      [](SharedIndex& index, py::handle tokens, const std::string& owner, NamespaceId space,
         std::optional<std::uint64_t> until) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        try {
          index.write([&](RadixIndex& native) { native.pin(space, view, owner, until); });
        } catch (const PinLimitError& error) {
          raise_pin_limit(error);
        }
      },
      "tokens"_a, "owner"_a, "namespace"_a = 0, py::kw_only(), "until"_a = py::none(),
      R"(Keep a subtree from eviction, and what leads to it.

No quota and no time to live pushes it out either; `drop` and `clear_…` do. What is not kept is not
brought back. Several owners may pin the same prefix; one that pins again moves its end. A pinned
subtree that comes to have more than `max_pinned` of a tier is evicted like others until it has not.

Args:
    tokens: The prefix; none means the whole namespace.
    owner: Who pins, for `unpin`.
    namespace: Which tree.
    until: The pin ends with the first `advance` to this time or later. None: only with `unpin`.

Raises:
    PinLimitError: More than `max_pinned` of a tier would be pinned.
)");
  cls.def(
      "unpin",
      [](SharedIndex& index, py::handle tokens, const std::string& owner, NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        return index.write([&](RadixIndex& native) { return native.unpin(space, view, owner); });
      },
      "tokens"_a, "owner"_a, "namespace"_a = 0,
      "Ends an owner's pin of this very prefix; False where there is none.");
  cls.def(
      "unpin_all",
      [](SharedIndex& index, const std::string& owner) {
        return index.write([&](RadixIndex& native) { return native.unpin_all(owner); });
      },
      "owner"_a, "Ends all pins of an owner; returns how many there were.");
  cls.def(
      "advance",
      [](SharedIndex& index, std::uint64_t now) -> PyExpired {
        const Expired expired =
            index.write([&](RadixIndex& native) { return native.advance(now); });
        return py::make_tuple(to_array(expired.chunks[index_of(Tier::kMemory)]),
                              to_array(expired.chunks[index_of(Tier::kDisk)]));
      },
      "now"_a,
      R"(Tell the index the time: pins end, and what was not used for its time to live leaves.

What is pinned or in use stays until then. A time before the last one is ignored.

Args:
    now: In the unit of the `time` that other calls are given.

Returns:
    The chunks that left memory, and those that left the disk.
)");
}

void bind_moving(IndexClass& cls) {
  cls.def(
      "demote",
      [](SharedIndex& index, py::handle tokens, NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        return index.write([&](RadixIndex& native) { return native.demote(space, view); });
      },
      "tokens"_a, "namespace"_a = 0,
      "What begins with `tokens` and is ready on disk leaves memory, but for what a handle or a "
      "command holds. Returns how many chunks did.");
}

void bind_subtree_reading(IndexClass& cls) {
  cls.def(
      "marks",
      [](const SharedIndex& index) {
        const std::vector<MarkValues> found =
            index.read([](const RadixIndex& native) { return native.marks(); });
        std::vector<PyMark> marks;
        for (const MarkValues& values : found) marks.push_back({values, index.config().unit_bytes});
        return marks;
      },
      "All that was said about prefixes, in the order in which they were first named.");
  cls.def(
      "walk_subtree",
      [](const SharedIndex& index, py::handle tokens, NamespaceId space,
         bool with_path) -> PySubtree {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        const Subtree subtree = index.read(
            [&](const RadixIndex& native) { return native.walk_subtree(space, view, with_path); });
        const auto as_array = []<class Value>(const std::vector<Value>& values) {
          return py::array_t<Value>(static_cast<py::ssize_t>(values.size()), values.data());
        };
        return py::make_tuple(to_array(subtree.chunks), as_array(subtree.parent_index),
                              as_array(subtree.tokens), as_array(subtree.time),
                              as_array(subtree.num_uses));
      },
      "tokens"_a, "namespace"_a, "with_path"_a, "See `RadixIndex.walk`.");
  cls.def(
      "subtree_stats",
      [](const SharedIndex& index, py::handle tokens, NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        return PySubtreeStats{
            index.read([&](const RadixIndex& native) { return native.subtree_stats(space, view); }),
            index.config().unit_bytes};
      },
      "tokens"_a, "namespace"_a = 0,
      "How much is kept of what begins with `tokens`, and how often it was found. Looks at each "
      "chunk.");
}

}  // namespace

void bind_index_subtrees(py::module_& module, IndexClass& cls) {
  bind_subtree_values(module);
  bind_limits(cls);
  bind_pins(cls);
  bind_moving(cls);
  bind_subtree_reading(cls);
}

}  // namespace radixkv::bind
