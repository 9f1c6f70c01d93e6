// radixkv.RadixIndex: checks arguments, takes the lock, calls the index. No logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "bind/arrays.h"
#include "bind/index_arguments.h"
#include "bind/index_parts.h"
#include "bind/parts.h"
#include "bind/remote_parts.h"
#include "bind/shared_index.h"
#include "bind/show_values.h"
#include "index/radix_index.h"

namespace radixkv::bind {

namespace {

using namespace pybind11::literals;

// Capacity of a tier in units; None has no end.
std::uint32_t parse_units(const char* name, std::optional<std::int64_t> num_bytes,
                          std::int64_t unit_bytes) {
  if (!num_bytes) return kEndless;
  parse_count(name, *num_bytes);
  return static_cast<std::uint32_t>(std::min<std::int64_t>(*num_bytes / unit_bytes, kEndless));
}

IndexPointer make_index(std::uint32_t chunk_tokens, std::int64_t token_bytes,
                        std::int64_t unit_bytes, std::optional<std::int64_t> memory_bytes,
                        std::int64_t disk_bytes, std::uint32_t tail_slack,
                        const std::string& policy, double max_pinned) {
  if (unit_bytes < 1) {
    throw py::value_error("unit_bytes: expected at least 1, got " + std::to_string(unit_bytes));
  }
  IndexConfig config;
  config.chunk_tokens = chunk_tokens;
  config.token_bytes = token_bytes;
  config.unit_bytes = unit_bytes;
  config.num_units = {parse_units("memory_bytes", memory_bytes, unit_bytes),
                      parse_units("disk_bytes", disk_bytes, unit_bytes)};
  config.tail_slack = tail_slack;
  config.policy = &find_policy(policy);
  config.max_pinned = max_pinned;
  return std::make_shared<SharedIndex>(config);
}

std::uint64_t to_units(const SharedIndex& index, std::int64_t num_bytes) {
  const auto unit = static_cast<std::uint64_t>(index.config().unit_bytes);
  return (parse_count("num_bytes", num_bytes) + unit - 1) / unit;
}

// Chunks, and the units that the rest would have needed.
using PyReservation = py::typing::Tuple<py::array, py::int_>;
using PySpill = py::typing::Tuple<py::array, py::array, py::bytes, py::int_>;

// Events, and the tokens of those that stored a chunk.
using PyEvents = py::typing::Tuple<py::array, py::array>;

PyReservation to_python(const Reservation& reservation) {
  return py::make_tuple(to_array(reservation.chunks), reservation.missing_units);
}

void bind_reading(IndexClass& cls) {
  cls.def(
      "namespace",
      [](SharedIndex& index, const py::bytes& digest) {
        const NamespaceDigest parsed = parse_digest(digest);
        return index.write([&](RadixIndex& native) { return native.find_namespace(parsed); });
      },
      "digest"_a, "Finds or makes the tree of a namespace and returns its number.");
  cls.def(
      "match",
      [](const IndexPointer& index, py::handle tokens, NamespaceId space, const py::object& limit,
         bool release_gil) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(limit);
        const LongWalk unlock(view, release_gil);
        return PyMatch{index, index->read([&](const RadixIndex& native) {
                         return native.match(space, view);
                       })};
      },
      "tokens"_a, "namespace"_a = 0, py::kw_only(), "limit"_a = py::none(), "release_gil"_a = true,
      "Finds how far `tokens` are kept. Pins nothing and changes nothing.");
  cls.def(
      "acquire",
      [](const IndexPointer& index, py::handle tokens, NamespaceId space,
         std::optional<std::uint64_t> time, const py::object& limit, bool release_gil) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(limit);
        const LongWalk unlock(view, release_gil);
        return std::make_unique<PrefixHandle>(index, index->write([&](RadixIndex& native) {
          return native.acquire(space, view, time);
        }));
      },
      "tokens"_a, "namespace"_a = 0, py::kw_only(), "time"_a = py::none(), "limit"_a = py::none(),
      "release_gil"_a = true, "Matches and pins what was found until the handle is closed.");
  cls.def(
      "touch",
      [](const IndexPointer& index, const PrefixHandle& handle, std::uint64_t time) {
        const Pin& pin = pin_of(handle, index);
        index->write([&](RadixIndex& native) { native.touch(pin, time); });
      },
      "handle"_a, "time"_a, "Writes an admission's number to the last chunk of the handle.");
}

void bind_memory(IndexClass& cls) {
  cls.def(
      "reserve",
      [](SharedIndex& index, py::handle tokens, NamespaceId space, std::uint64_t time,
         const py::object& limit, bool tail, bool release_gil) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(limit);
        Reservation result;
        {
          const LongWalk unlock(view, release_gil);
          result = index.write(
              [&](RadixIndex& native) { return native.reserve(space, view, time, tail); });
        }
        return to_python(result);
      },
      "tokens"_a, "namespace"_a = 0, py::kw_only(), "time"_a, "limit"_a = py::none(),
      "tail"_a = true, "release_gil"_a = true,
      "Takes memory for the chunks of `tokens` that memory does not keep: (chunks, "
      "missing_units).");
  cls.def(
      "complete_store",
      [](SharedIndex& index, const py::object& chunks, std::int64_t num_ok) {
        const ChunkArgument argument(chunks);
        const std::size_t ok = parse_count("num_ok", num_ok);
        index.write([&](RadixIndex& native) { native.complete_store(argument.view(), ok); });
      },
      "chunks"_a, "num_ok"_a, "The first `num_ok` chunks of a store are ready, the rest failed.");
  cls.def(
      "insert",
      [](SharedIndex& index, py::handle tokens, NamespaceId space, std::uint64_t time,
         bool release_gil) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        const LongWalk unlock(view, release_gil);
        return index.write([&](RadixIndex& native) { return native.insert(space, view, time); });
      },
      "tokens"_a, "namespace"_a = 0, py::kw_only(), "time"_a = 0, "release_gil"_a = true,
      "Reserves and completes at once, evicting as needed. Returns the number of chunks added.");
  cls.def(
      "use",
      [](const IndexPointer& index, const PrefixHandle& handle, std::int64_t first_token,
         std::int64_t num_tokens) {
        const Pin& pin = pin_of(handle, index);
        const std::uint64_t most = std::numeric_limits<std::uint32_t>::max();
        const auto first = std::min(parse_count("first_token", first_token), most);
        const auto count = std::min(parse_count("num_tokens", num_tokens), most);
        return to_array(index->write([&](RadixIndex& native) {
          return native.use(pin, static_cast<std::uint32_t>(first),
                            static_cast<std::uint32_t>(count));
        }));
      },
      "handle"_a, "first_token"_a, "num_tokens"_a,
      "Slices of a handle's tokens in memory, with one use on each.");
  cls.def(
      "release_uses",
      [](SharedIndex& index, const py::object& slices) {
        const ChunkArgument argument(slices);
        index.write([&](RadixIndex& native) { native.release_uses(argument.view()); });
      },
      "slices"_a, "Ends the uses that `use` began.");
}

void bind_disk(IndexClass& cls) {
  cls.def(
      "reserve_spill",
      [](SharedIndex& index, std::int64_t max_chunks) -> PySpill {
        const std::size_t most = parse_count("max_chunks", max_chunks);
        const SpillReservation result =
            index.write([&](RadixIndex& native) { return native.reserve_spill(most); });
        const py::array_t<Token> tokens(static_cast<py::ssize_t>(result.tokens.size()),
                                        result.tokens.data());
        const py::bytes digest(reinterpret_cast<const char*>(result.digest.data()),
                               result.digest.size());
        return py::make_tuple(to_array(result.chunks), tokens, digest, result.missing_units);
      },
      "max_chunks"_a,
      "The next chunks of one path to write to disk: (chunks, tokens, digest, missing_units).");
  cls.def(
      "take_remains",
      [](SharedIndex& index, bool all) {
        return to_array(
            index.write([all](RadixIndex& native) { return native.take_remains(all); }));
      },
      py::kw_only(), "all"_a = false,
      "Chunks that left the disk and have to be cleared there before the next spill, so that its "
      "headers suffice; or all whose headers may still be there.");
  cls.def(
      "complete_spill",
      [](SharedIndex& index, const py::object& chunks, std::int64_t num_ok, bool retry) {
        const ChunkArgument argument(chunks);
        const std::size_t ok = parse_count("num_ok", num_ok);
        index.write([&](RadixIndex& native) { native.complete_spill(argument.view(), ok, retry); });
      },
      "chunks"_a, "num_ok"_a, py::kw_only(), "retry"_a = false,
      "The first `num_ok` are ready on disk; the rest failed and are tried again only if `retry`.");
  cls.def(
      "reserve_fetch",
      [](const IndexPointer& index, const PrefixHandle& handle,
         std::optional<std::int64_t> max_chunks) {
        const Pin& pin = pin_of(handle, index);
        const std::size_t most = max_chunks ? parse_count("max_chunks", *max_chunks)
                                            : std::numeric_limits<std::size_t>::max();
        const Reservation result =
            index->write([&](RadixIndex& native) { return native.reserve_fetch(pin, most); });
        return to_python(result);
      },
      "handle"_a, py::kw_only(), "max_chunks"_a = py::none(),
      "Takes memory for chunks of the handle that are on disk: (chunks, missing_units).");
  cls.def(
      "complete_fetch",
      [](SharedIndex& index, const py::object& chunks, std::int64_t num_ok, bool corrupt) {
        const ChunkArgument argument(chunks);
        const std::size_t ok = parse_count("num_ok", num_ok);
        index.write(
            [&](RadixIndex& native) { native.complete_fetch(argument.view(), ok, corrupt); });
      },
      "chunks"_a, "num_ok"_a, "corrupt"_a = false,
      "The first `num_ok` are ready in memory; with `corrupt` the next one leaves the disk.");
}

template <class Value>
using Column = py::array_t<Value, py::array::c_style>;

void bind_restore(IndexClass& cls) {
  cls.def(
      "restore_disk",
      [](SharedIndex& index, const Column<std::int64_t>& parent_index,
         const Column<std::uint16_t>& num_tokens, const Column<std::uint32_t>& tokens,
         const Column<std::uint32_t>& disk_offset, const Column<std::uint16_t>& num_units,
         const Column<std::int32_t>& namespace_index, const std::vector<py::bytes>& digests,
         const Column<std::uint64_t>& time) {
        std::vector<NamespaceDigest> parsed;
        for (const py::bytes& digest : digests) parsed.push_back(parse_digest(digest));
        const auto view = [count = parent_index.size()](const char* name, const auto& column) {
          if (column.ndim() != 1 || (count >= 0 && column.size() != count)) {
            throw py::value_error(std::string(name) + ": expected " + std::to_string(count) +
                                  " entries, got " + std::to_string(column.size()));
          }
          return std::span(column.data(), static_cast<std::size_t>(column.size()));
        };
        const RestoredChunks restored{
            .parent_index = view("parent_index", parent_index),
            .num_tokens = view("num_tokens", num_tokens),
            .tokens = {tokens.data(), static_cast<std::size_t>(tokens.size())},
            .disk_offset = view("disk_offset", disk_offset),
            .num_units = view("num_units", num_units),
            .namespace_index = view("namespace_index", namespace_index),
            .digests = parsed,
            .time = view("time", time)};
        index.write([&](RadixIndex& native) { native.restore_disk(restored); });
      },
      py::arg("parent_index").noconvert(), py::arg("num_tokens").noconvert(),
      py::arg("tokens").noconvert(), py::arg("disk_offset").noconvert(),
      py::arg("num_units").noconvert(), py::arg("namespace_index").noconvert(), "digests"_a,
      py::arg("time").noconvert(),
      "Puts the chunks of a reopened disk into the index. Parents come before their children.");
}

void bind_leaving(IndexClass& cls) {
  cls.def(
      "evict",
      [](SharedIndex& index, const std::string& tier, std::int64_t num_bytes) {
        const Tier parsed = parse_tier(tier);
        const std::uint64_t num_units = to_units(index, num_bytes);
        return to_array(
            index.write([&](RadixIndex& native) { return native.evict(parsed, num_units); }));
      },
      "tier"_a, "num_bytes"_a,
      "Evicts leaves until their extents add up to `num_bytes`; returns what left.");
  cls.def(
      "evict_units",
      [](SharedIndex& index, const std::string& tier, std::int64_t num_units) {
        const Tier parsed = parse_tier(tier);
        const std::uint64_t count = parse_count("num_units", num_units);
        return to_array(
            index.write([&](RadixIndex& native) { return native.evict(parsed, count); }));
      },
      "tier"_a, "num_units"_a, "The same, counted in units of the tier.");
  cls.def(
      "evict_for_spill",
      [](SharedIndex& index, std::int64_t num_units) {
        const std::uint64_t count = parse_count("num_units", num_units);
        return to_array(
            index.write([&](RadixIndex& native) { return native.evict_for_spill(count); }));
      },
      "num_units"_a, "Makes room on disk for the next spill, but not where that is written below.");
  cls.def(
      "drop",
      [](SharedIndex& index, py::handle tokens, NamespaceId space) {
        const TokenArgument argument(tokens);
        const TokenView view = argument.view(py::none());
        return to_array(index.write([&](RadixIndex& native) { return native.drop(space, view); }));
      },
      "tokens"_a, "namespace"_a = 0,
      "Drops every chunk whose path begins with `tokens`; returns them, parents first.");
  cls.def(
      "clear_memory",
      [](SharedIndex& index) {
        return index.write([](RadixIndex& native) { return native.clear_memory(); });
      },
      "Everything that no pin holds leaves memory. Returns how many chunks did.");
  cls.def(
      "clear_all",
      [](SharedIndex& index) {
        return to_array(index.write([](RadixIndex& native) { return native.clear_all(); }));
      },
      "Drops everything, in every namespace; returns the chunks.");
}

void bind_events(IndexClass& cls) {
  cls.def(
      "record_events",
      [](SharedIndex& index, std::int64_t most_events) {
        const std::size_t most = parse_count("most_events", most_events);
        index.write([&](RadixIndex& native) { native.record_events(most); });
      },
      "most_events"_a, "Notes from now on what a match may find; so many events wait at most.");
  cls.def(
      "take_events",
      [](SharedIndex& index) -> PyEvents {
        const EventLog::Taken taken =
            index.write([](RadixIndex& native) { return native.take_events(); });
        const auto as_array = []<class Value>(const std::vector<Value>& values) {
          return py::array_t<Value>(static_cast<py::ssize_t>(values.size()), values.data());
        };
        return py::make_tuple(as_array(taken.events), as_array(taken.tokens));
      },
      "The events since the last call: (events, tokens), see `radixkv.events`.");
}

void bind_looking(IndexClass& cls) {
  cls.def(
      "stats",
      [](const SharedIndex& index) {
        return index.read([](const RadixIndex& native) { return native.stats(); });
      },
      "Counts of now.");
  cls.def(
      "state_hash",
      [](const SharedIndex& index) {
        return index.read([](const RadixIndex& native) { return native.state_hash(); });
      },
      "A digest of all changes so far: equal on replicas that saw the same calls.");
  cls.def(
      "check_invariants",
      [](const SharedIndex& index) {
        index.read([](const RadixIndex& native) { native.check_invariants(); });
      },
      "Raises RuntimeError where the index contradicts itself. Slow: for tests.");
  cls.def_property_readonly("chunk_tokens",
                            [](const SharedIndex& index) { return index.config().chunk_tokens; });
  cls.def_property_readonly("unit_bytes",
                            [](const SharedIndex& index) { return index.config().unit_bytes; });
}

void bind_values(py::module_& module) {
  py::class_<PyMatch> match(module, "Match", "What a match found. It pins nothing.");
  match
      .def_property_readonly(
          "num_tokens", [](const PyMatch& self) { return self.match.num_tokens; },
          "Longest prefix that is ready, each chunk in memory or on disk.")
      .def_property_readonly(
          "num_memory_tokens", [](const PyMatch& self) { return self.match.num_memory_tokens; },
          "Longest prefix that is ready in memory.")
      .def(
          "slices",
          [](const PyMatch& self) {
            return to_array(self.index->read(
                [&](const RadixIndex& native) { return native.slices(self.match); }));
          },
          "The chunks of `num_tokens`, as they are now; empty once the last of them has gone.");
  show_values(match);
  py::class_<PrefixHandle>(module, "PrefixHandle", "Pins what a match found until it is closed.")
      .def_property_readonly(
          "num_tokens", [](const PrefixHandle& self) { return self.pin().num_tokens; },
          "Tokens that the handle pins.")
      .def_property_readonly(
          "num_memory_tokens",
          [](const PrefixHandle& self) {
            return self.index().read(
                [&](const RadixIndex& native) { return native.num_memory_tokens(self.pin()); });
          },
          "How many of them, from the front, are ready in memory now.")
      .def_property_readonly("is_closed", &PrefixHandle::is_closed)
      .def(
          "slices",
          [](const PrefixHandle& self) {
            return to_array(self.index().read(
                [&](const RadixIndex& native) { return native.slices(self.pin()); }));
          },
          "The chunks of `num_tokens`, as they are now.")
      .def("close", &PrefixHandle::close, "Ends the pin. A second call does nothing.")
      .def("__enter__", [](PrefixHandle& self) -> PrefixHandle& { return self; })
      .def(
          "__exit__",
          [](PrefixHandle& self, const py::object&, const py::object&, const py::object&) {
            self.close();
          },
          "type"_a, "value"_a, "traceback"_a);
  py::class_<TierStats> tier(module, "TierStats");
  tier.def_readonly("ready_chunks", &TierStats::ready_chunks)
      .def_readonly("writing_chunks", &TierStats::writing_chunks)
      .def_readonly("used_units", &TierStats::used_units)
      .def_readonly("total_units", &TierStats::total_units)
      .def_readonly("limbo_extents", &TierStats::limbo_extents)
      .def_readonly("uses", &TierStats::uses)
      .def_readonly("evicted_chunks", &TierStats::evicted_chunks)
      .def_readonly("failed_chunks", &TierStats::failed_chunks);
  show_values(tier);
  py::class_<IndexStats> stats(module, "IndexStats");
  stats.def_readonly("chunks", &IndexStats::chunks)
      .def_readonly("nodes", &IndexStats::nodes)
      .def_readonly("tokens", &IndexStats::tokens)
      .def_readonly("pins", &IndexStats::pins)
      .def_readonly("marks", &IndexStats::marks)
      .def_readonly("spill_queue", &IndexStats::spill_queue)
      .def_readonly("dropped_chunks", &IndexStats::dropped_chunks)
      .def_property_readonly(
          "memory", [](const IndexStats& self) { return self.tiers[index_of(Tier::kMemory)]; })
      .def_property_readonly(
          "disk", [](const IndexStats& self) { return self.tiers[index_of(Tier::kDisk)]; });
  show_values(stats);
}

}  // namespace

void bind_index(py::module_& module) {
  PYBIND11_NUMPY_DTYPE(ChunkRef, id, generation, memory_offset, disk_offset, parent_disk_offset,
                       span, num_tokens, num_units, first, count);
  PYBIND11_NUMPY_DTYPE(IndexEvent, sequence, id, generation, parent_id, parent_generation, space,
                       first_token, num_tokens, is_stored, tier, unused);
  bind_values(module);
  IndexClass cls(module, "RadixIndex");
  cls.def(py::init(&make_index), "chunk_tokens"_a, "token_bytes"_a, "unit_bytes"_a,
          "memory_bytes"_a, "disk_bytes"_a, "tail_slack"_a, "policy"_a, "max_pinned"_a);
  bind_reading(cls);
  bind_memory(cls);
  bind_disk(cls);
  bind_index_keys(cls);
  bind_restore(cls);
  bind_leaving(cls);
  bind_events(cls);
  bind_index_runs(cls);
  bind_index_sample(cls);
  bind_looking(cls);
  bind_index_subtrees(module, cls);
  bind_index_saving(module, cls);
}

}  // namespace radixkv::bind
