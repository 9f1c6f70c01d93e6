// The data plane for Python: checks what numpy hands over, then calls. radixkv/executor.py is its
// typed face.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "bind/at_home.h"
#include "bind/disk_arrays.h"
#include "bind/parts.h"
#include "bind/paths.h"
#include "bind/remote_parts.h"
#include "bind/unlock.h"
#include "core/tier_failure.h"
#include "exec/executor.h"

namespace radixkv::bind {

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

template <typename Value>
using Array = py::array_t<Value, py::array::c_style>;

template <typename Value>
std::span<const Value> view(const Array<Value>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

// numpy's record type is checked by executor.py once for all; here only what a wrong read could
// come from.
std::span<const ChunkRef> view_chunks(const py::array& chunks) {
  if (chunks.ndim() != 1 || chunks.itemsize() != sizeof(ChunkRef) ||
      !(chunks.flags() & py::array::c_style)) {
    throw std::invalid_argument("chunks: expected a contiguous array of CHUNK_DTYPE");
  }
  return {static_cast<const ChunkRef*>(chunks.data()), static_cast<std::size_t>(chunks.size())};
}

// About three years at most: far, and far from overflowing a clock.
double bounded(double seconds) { return std::clamp(seconds, 0.0, 1e8); }

CompletionQueue::Clock::duration timeout(double seconds) {
  return std::chrono::duration_cast<CompletionQueue::Clock::duration>(
      std::chrono::duration<double>(bounded(seconds)));
}

void translate_tier_failure(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const TierFailure& failure) {
    const char* name = "TierError";
    if (failure.kind() == TierFailure::Kind::kLocked) name = "TierLockedError";
    if (failure.kind() == TierFailure::Kind::kFormat) name = "TierFormatError";
    const py::object type = py::module_::import("radixkv.errors").attr(name);
    const py::object error = type(failure.tier(), failure.op(), failure.what());
    PyErr_SetObject(type.ptr(), error.ptr());
  }
}

py::typing::List<py::typing::Tuple<py::int_, py::int_, py::int_>> to_tuples(
    const std::vector<Completion>& completions) {
  py::typing::List<py::typing::Tuple<py::int_, py::int_, py::int_>> list;
  for (const Completion& completion : completions) {
    list.append(py::make_tuple(completion.command_id, completion.num_ok,
                               static_cast<int>(completion.status)));
  }
  return list;
}

Fields to_dict(const KindStats& stats) {
  return py::dict("num_queued"_a = stats.num_queued, "num_commands"_a = stats.num_commands,
                  "num_chunks"_a = stats.num_chunks, "num_bytes"_a = stats.num_bytes,
                  "num_failed"_a = stats.num_failed, "num_corrupt"_a = stats.num_corrupt,
                  "num_full"_a = stats.num_full, "recent_gbps"_a = stats.recent_bytes_per_s / 1e9);
}

std::vector<std::int64_t> to_vector(const std::optional<Array<std::int64_t>>& array) {
  if (!array) return {};
  return {view(*array).begin(), view(*array).end()};
}

void attach(Executor& executor, const Array<std::uint64_t>& addresses,
            const Array<std::int64_t>& strides, std::int64_t num_slots, std::int64_t block_slots,
            const std::optional<Array<std::int64_t>>& slot_strides, std::int64_t num_pieces,
            const std::optional<Array<std::int64_t>>& piece_strides) {
  EngineView engine;
  for (const std::uint64_t address : view(addresses)) {
    engine.addresses.push_back(reinterpret_cast<std::byte*>(address));
  }
  engine.strides = to_vector(strides);
  engine.slot_strides = to_vector(slot_strides);
  engine.piece_strides = to_vector(piece_strides);
  engine.block_slots = block_slots;
  engine.num_pieces = num_pieces;
  engine.num_slots = num_slots;
  executor.attach(std::move(engine));
}

AtHome<Executor> make_executor(const ExecutorOptions& options,
                               const std::optional<DiskOptions>& disk,
                               const PoolProgress& pool_progress,
                               const ScanProgress& scan_progress) {
  // The callables that came from Python take the GIL by themselves when they are called.
  const Unlock unlock;
  try {
    return AtHome<Executor>(new Executor(options, disk, pool_progress, scan_progress));
  } catch (const std::system_error& error) {  // tiers say by themselves what they lack
    throw TierFailure(TierFailure::Kind::kOther, "executor", "open",
                      "starting a thread failed (" + error.code().message() +
                          "): raise the limit of threads or of memory");
  }
}

Fields pool_facts(const Executor& executor) {
  const PinnedPool& pool = executor.pool();
  return py::dict("pinned"_a = pool.pinned(), "pin_reason"_a = pool.pin_reason(),
                  "huge_bytes"_a = pool.huge_bytes(), "numa_bound"_a = pool.numa_bound(),
                  "ready_s"_a = pool.ready_s(),
                  "address"_a = reinterpret_cast<std::uintptr_t>(pool.bytes().data()));
}

std::optional<Fields> disk_facts(Executor& executor) {
  DiskTier* disk = executor.disk();
  if (disk == nullptr) return std::nullopt;
  return py::dict("path"_a = show_path(disk->file().path()), "created"_a = disk->file().created(),
                  "direct"_a = disk->file().direct(),
                  "preallocated"_a = disk->file().preallocated(), "io_engine"_a = disk->io_engine(),
                  "registered_buffers"_a = disk->has_registered_buffers(),
                  "io_note"_a = disk->io_note());
}

std::string take_disk_trouble(Executor& executor) {
  DiskTier* disk = executor.disk();
  return disk == nullptr ? "" : disk->take_trouble();
}

// Gives the arrays and lets go of the native copy.
std::optional<Fields> take_restored(Executor& executor) {
  DiskTier* disk = executor.disk();
  if (disk == nullptr) return std::nullopt;
  const RecoveredChunks recovered = disk->take_recovered();
  return restored_fields(recovered, disk->file().group_id());
}

void bind_options(py::module_& module) {
  bind_remote_options(module);
  py::class_<ExecutorOptions>(module, "ExecutorOptions")
      .def(py::init<>())
      .def(
          "add_remote",
          [](ExecutorOptions& self, const RedisEndpoint& remote) {
            self.remotes.push_back(remote);
          },
          "remote"_a)
      .def(
          "set_object_shape",
          [](ExecutorOptions& self, const py::bytes& layout_digest, std::uint32_t rank,
             std::uint32_t world_size) {
            self.object_shape.layout_digest = to_digest("layout_digest", layout_digest);
            self.object_shape.rank = rank;
            self.object_shape.world_size = world_size;
          },
          "layout_digest"_a, "rank"_a, "world_size"_a)
      .def_readwrite("num_layers", &ExecutorOptions::num_layers)
      .def_readwrite("num_kv", &ExecutorOptions::num_kv)
      .def_readwrite("row_bytes", &ExecutorOptions::row_bytes)
      .def_readwrite("chunk_tokens", &ExecutorOptions::chunk_tokens)
      .def_readwrite("unit_bytes", &ExecutorOptions::unit_bytes)
      .def_readwrite("memory_units", &ExecutorOptions::memory_units)
      .def_readwrite("num_copy_threads", &ExecutorOptions::num_copy_threads)
      .def_readwrite("copies_rows", &ExecutorOptions::copies_rows)
      .def_property(
          "hugepages", [](const ExecutorOptions& self) { return self.pool.hugepages; },
          [](ExecutorOptions& self, bool value) { self.pool.hugepages = value; })
      .def_property(
          "numa_node", [](const ExecutorOptions& self) { return self.pool.numa_node; },
          [](ExecutorOptions& self, int value) { self.pool.numa_node = value; })
      .def_property(
          "pin", [](const ExecutorOptions& self) { return self.pool.pin; },
          [](ExecutorOptions& self, bool value) { self.pool.pin = value; });

  py::class_<DiskOptions>(module, "DiskOptions")
      .def(py::init<>())
      .def("set_folder",
           [](DiskOptions& self, const py::bytes& path) { self.folder = parse_path(path); })
      .def_readwrite("group_durable", &DiskOptions::group_durable)
      .def_readwrite("allow_uring", &DiskOptions::allow_uring)
      .def_readwrite("sync_bytes", &DiskOptions::sync_bytes)
      .def_readwrite("sync_interval_s", &DiskOptions::sync_interval_s)
      .def_readwrite("piece_bytes", &DiskOptions::piece_bytes)
      .def_readwrite("depth", &DiskOptions::depth)
      .def("set_group_id", [](DiskOptions& self,
                              const py::bytes& id) { self.group_id = to_digest("group_id", id); })
      .def("set_shape",
           [](DiskOptions& self, const py::bytes& layout_digest, std::uint32_t unit_bytes,
              std::uint32_t chunk_tokens, std::uint32_t capacity_units, std::uint32_t world_size,
              std::uint32_t rank) {
             self.shape = {to_digest("layout_digest", layout_digest),
                           unit_bytes,
                           chunk_tokens,
                           capacity_units,
                           world_size,
                           rank};
           });
  module.def("disk_units_that_fit", &DiskShape::units_that_fit, "capacity_bytes"_a, "unit_bytes"_a);
}

// Chunks in stored form, as bytes objects, copied while the GIL is free.
void submit_stored(Executor& self, std::int64_t command_id, const py::array& chunks,
                   const std::vector<py::bytes>& payloads) {
  std::vector<std::span<const std::byte>> views;
  for (const py::bytes& payload : payloads) {
    const auto view = static_cast<std::string_view>(payload);
    views.push_back(std::as_bytes(std::span(view)));
  }
  const std::span<const ChunkRef> refs = view_chunks(chunks);
  const Unlock unlock;
  self.submit_stored(command_id, refs, views);
}

void bind_submits(ExecutorClass& executor) {
  executor
      .def("attach", &attach, "addresses"_a.noconvert(), "strides"_a.noconvert(), "num_slots"_a,
           "block_slots"_a, "slot_strides"_a.noconvert(), "num_pieces"_a,
           "piece_strides"_a.noconvert())
      .def(
          "submit_copy",
          [](Executor& self, CommandKind kind, std::int64_t command_id, const py::array& chunks,
             const Array<std::int64_t>& slots) {
            self.submit_copy(kind, command_id, view_chunks(chunks), view(slots));
          },
          "kind"_a, "command_id"_a, "chunks"_a.noconvert(), "slots"_a.noconvert())
      .def("submit_stored", &submit_stored, "command_id"_a, "chunks"_a.noconvert(), "payloads"_a)
      .def(
          "begin_outside",
          [](Executor& self, CommandKind kind, std::int64_t command_id, const py::array& chunks,
             std::size_t num_slots) {
            return self.begin_outside(kind, command_id, view_chunks(chunks), num_slots);
          },
          "kind"_a, "command_id"_a, "chunks"_a.noconvert(), "num_slots"_a)
      .def(
          "end_outside",
          [](Executor& self, CommandKind kind, std::int64_t command_id, const py::array& chunks,
             bool ok) { self.end_outside(kind, command_id, view_chunks(chunks), ok); },
          "kind"_a, "command_id"_a, "chunks"_a.noconvert(), "ok"_a)
      .def(
          "submit_spill",
          [](Executor& self, std::int64_t command_id, const py::array& chunks,
             const Array<Token>& tokens, const py::bytes& namespace_digest,
             std::uint64_t sequence) {
            self.submit_spill(command_id, view_chunks(chunks), view(tokens),
                              to_digest("namespace", namespace_digest), sequence);
          },
          "command_id"_a, "chunks"_a.noconvert(), "tokens"_a.noconvert(), "namespace"_a,
          "sequence"_a)
      .def(
          "submit_disk",
          [](Executor& self, CommandKind kind, std::int64_t command_id, const py::array& chunks) {
            self.submit_disk(kind, command_id, view_chunks(chunks));
          },
          "kind"_a, "command_id"_a, "chunks"_a.noconvert());
}

void bind_waits(ExecutorClass& executor) {
  executor
      .def(
          "poll", [](Executor& self, std::size_t max) { return to_tuples(self.poll(max)); },
          "max"_a)
      .def(
          "wait", [](Executor& self, double timeout_s) { self.wait(timeout(timeout_s)); },
          "timeout_s"_a, py::call_guard<Unlock>())
      .def(
          "wait_layer",
          [](Executor& self, std::int64_t command_id, std::int64_t layer, double timeout_s) {
            return self.wait_layer(command_id, layer, bounded(timeout_s));
          },
          "command_id"_a, "layer"_a, "timeout_s"_a, py::call_guard<Unlock>())
      .def("layers_done", &Executor::layers_done, "command_id"_a)
      .def(
          "close", [](Executor& self, double drain_s) { self.close(bounded(drain_s)); },
          "drain_s"_a, py::call_guard<Unlock>());
}

void bind_facts(ExecutorClass& executor) {
  executor
      .def(
          "kind_stats",
          [](const Executor& self, CommandKind kind) { return to_dict(self.kind_stats(kind)); },
          "kind"_a)
      .def("pool_facts", &pool_facts)
      .def("disk_facts", &disk_facts)
      .def("take_disk_trouble", &take_disk_trouble)
      .def("take_restored", &take_restored)
      .def(
          "read_memory",
          [](const Executor& self, std::int64_t offset_units, std::int64_t num_bytes) {
            const auto range = self.read_memory(offset_units, num_bytes);
            return py::bytes(reinterpret_cast<const char*>(range.data()), range.size());
          },
          "offset_units"_a, "num_bytes"_a)
      .def(
          "inject_fault",
          [](Executor& self, CommandKind kind, std::int64_t nth, bool fail, double delay_s) {
            self.inject_fault({kind, nth, fail, delay_s});
          },
          "kind"_a, "nth"_a, "fail"_a, "delay_s"_a);
}

}  // namespace

void bind_executor(py::module_& module) {
  py::register_exception_translator(&translate_tier_failure);
  bind_options(module);

  py::enum_<CommandKind>(module, "CommandKind")
      .value("STORE", CommandKind::kStore)
      .value("LOAD", CommandKind::kLoad)
      .value("SPILL", CommandKind::kSpill)
      .value("FETCH", CommandKind::kFetch)
      .value("CLEAR", CommandKind::kClear)
      .value("PUT", CommandKind::kPut)
      .value("GET", CommandKind::kGet)
      .value("LOOKUP", CommandKind::kLookup);

  ExecutorClass executor(module, "Executor");
  executor.def(py::init(&make_executor), "options"_a, "disk"_a, "pool_progress"_a,
               "scan_progress"_a);
  bind_submits(executor);
  bind_waits(executor);
  bind_facts(executor);
  bind_remote_commands(executor);
}

}  // namespace radixkv::bind
