// Remote tiers for Python: where they are, commands to them, and the keys by which they know
// chunks. No logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "bind/arrays.h"
#include "bind/disk_arrays.h"
#include "bind/remote_parts.h"
#include "bind/unlock.h"

namespace radixkv::bind {

using namespace pybind11::literals;

namespace {

using TokenArray = py::array_t<Token, py::array::c_style>;
using PyHealth = py::typing::List<py::typing::Tuple<py::bool_, py::str>>;
// Chunks, their tokens, and the key of the chunk before the first.
using PyPut = py::typing::Tuple<py::array, py::array, py::bytes>;

RemoteCommand make_command(CommandKind kind, std::int64_t command_id, const py::object& chunks,
                           const TokenArray& tokens, const py::bytes& parent_key) {
  RemoteCommand command;
  command.kind = kind;
  command.id = command_id;
  const ChunkArgument argument(chunks);
  command.chunks.assign(argument.view().begin(), argument.view().end());
  command.tokens.assign(tokens.data(), tokens.data() + tokens.size());
  command.parent_key = to_digest("parent_key", parent_key);
  return command;
}

void submit_remote(Executor& executor, CommandKind kind, std::int64_t command_id,
                   std::size_t remote, const py::object& chunks, const TokenArray& tokens,
                   const py::bytes& parent_key) {
  executor.submit_remote(remote, make_command(kind, command_id, chunks, tokens, parent_key));
}

void end_elsewhere(Executor& executor, CommandKind kind, std::int64_t command_id,
                   std::int32_t num_ok, int status, std::int64_t num_bytes) {
  executor.end_elsewhere(kind, {command_id, num_ok, static_cast<CompletionStatus>(status)},
                         num_bytes);
}

// Where head and payload of each object lie: [[address, address], …], [[bytes, bytes], …].
using PyBuffers = py::typing::Tuple<py::typing::List<py::typing::List<py::int_>>,
                                    py::typing::List<py::typing::List<py::int_>>>;

PyBuffers buffers_of(const OutsideObjects& objects, std::size_t count) {
  py::list addresses, sizes;
  for (std::size_t i = 0; i < std::min(count, objects.size()); ++i) {
    const auto [head, payload] = objects.buffers(i);
    py::list address, size;
    address.append(head.address);
    address.append(payload.address);
    size.append(head.num_bytes);
    size.append(payload.num_bytes);
    addresses.append(address);
    sizes.append(size);
  }
  return py::make_tuple(addresses, sizes);
}

PyHealth remote_health(const Executor& executor) {
  PyHealth all;
  for (const auto& remote : executor.remotes()) {
    const RemoteHealth health = remote->health();
    all.append(py::make_tuple(health.is_connected, health.reason));
  }
  return all;
}

std::int64_t remote_changes(const Executor& executor) {
  std::int64_t count = 0;
  for (const auto& remote : executor.remotes()) count += remote->num_changes();
  return count;
}

// The GIL is let go only for what takes about as long as to get it back while the engine's thread
// is busy.
std::size_t finish_get(OutsideObjects& objects, std::size_t count) {
  constexpr std::int64_t kFewBytes = 2 << 20;
  const std::int64_t num_bytes = objects.num_bytes(std::min(count, objects.size()));
  std::optional<Unlock> unlock;
  if (num_bytes - objects.num_bytes(objects.num_right()) > kFewBytes) unlock.emplace();
  return objects.finish_get(count);
}

void bind_outside_objects(py::module_& module) {
  const auto check = [](const OutsideObjects& objects, std::size_t index) {
    if (index >= objects.size()) throw py::value_error("index: beyond the last object");
  };
  py::class_<OutsideObjects>(module, "OutsideObjects")
      .def("__len__", &OutsideObjects::size)
      .def(
          "name",
          [check](const OutsideObjects& self, std::size_t index) {
            check(self, index);
            return self.name(index);
          },
          "index"_a)
      .def("buffers", &buffers_of, "count"_a)
      .def("begin_put", &OutsideObjects::begin_put, py::call_guard<Unlock>())
      .def("begin_get", &OutsideObjects::begin_get)
      .def("finish_get", &finish_get, "count"_a)
      .def("num_bytes", &OutsideObjects::num_bytes, "num_objects"_a);
}

}  // namespace

void bind_remote_options(py::module_& module) {
  py::class_<RedisEndpoint>(module, "RedisEndpoint")
      .def(py::init<>())
      .def_readwrite("host", &RedisEndpoint::host)
      .def_readwrite("unix_path", &RedisEndpoint::unix_path)
      .def_readwrite("port", &RedisEndpoint::port)
      .def_readwrite("username", &RedisEndpoint::username)
      .def_readwrite("password", &RedisEndpoint::password)
      .def_readwrite("database", &RedisEndpoint::database)
      .def_readwrite("tls", &RedisEndpoint::tls)
      .def_readwrite("ca_file", &RedisEndpoint::ca_file)
      .def_readwrite("verifies_server", &RedisEndpoint::verifies_server)
      .def_readwrite("timeout_s", &RedisEndpoint::timeout_s)
      .def_readwrite("ttl_s", &RedisEndpoint::ttl_s)
      .def_readwrite("sentinels", &RedisEndpoint::sentinels)
      .def_readwrite("master_name", &RedisEndpoint::master_name);
  bind_outside_objects(module);
  module.attr("MAX_HEAD_BYTES") = kMaxHeadBytes;
}

void bind_remote_commands(ExecutorClass& executor) {
  executor.def("begin_elsewhere", &Executor::begin_elsewhere, "kind"_a, "command_id"_a)
      .def("end_elsewhere", &end_elsewhere, "kind"_a, "command_id"_a, "num_ok"_a, "status"_a,
           "num_bytes"_a)
      .def(
          "outside_objects",
          [](const Executor& self, CommandKind kind, std::int64_t command_id,
             const py::object& chunks, const TokenArray& tokens, const py::bytes& parent_key,
             std::uintptr_t heads) {
            return self.outside_objects(make_command(kind, command_id, chunks, tokens, parent_key),
                                        reinterpret_cast<std::byte*>(heads));
          },
          "kind"_a, "command_id"_a, "chunks"_a, "tokens"_a.noconvert(), "parent_key"_a, "heads"_a,
          py::keep_alive<0, 1>())
      .def(
          "chunk_names",
          [](const Executor& self, const py::bytes& parent_key, const TokenArray& tokens) {
            const Digest parent = to_digest("parent_key", parent_key);
            const Unlock unlock;
            return self.chunk_names(parent,
                                    {tokens.data(), static_cast<std::size_t>(tokens.size())});
          },
          "parent_key"_a, "tokens"_a.noconvert())
      .def("submit_remote", &submit_remote, "kind"_a, "command_id"_a, "remote"_a, "chunks"_a,
           "tokens"_a.noconvert(), "parent_key"_a)
      .def("remote_health", &remote_health)
      .def("remote_changes", &remote_changes);
}

void bind_index_keys(IndexClass& index) {
  index
      .def(
          "reserve_put",
          [](SharedIndex& self, const py::object& chunks) -> PyPut {
            const ChunkArgument argument(chunks);
            const PutReservation result =
                self.write([&](RadixIndex& native) { return native.reserve_put(argument.view()); });
            const TokenArray tokens(static_cast<py::ssize_t>(result.tokens.size()),
                                    result.tokens.data());
            return py::make_tuple(to_array(result.chunks), tokens, to_bytes(result.parent_key));
          },
          "chunks"_a, "Uses what memory still has of these chunks: (chunks, tokens, parent_key).")
      .def(
          "parent_key",
          [](SharedIndex& self, const py::object& chunks) {
            const ChunkArgument argument(chunks);
            if (argument.view().empty()) throw py::value_error("chunks: expected at least one");
            const ChunkRef& first = argument.view().front();
            return to_bytes(
                self.write([&](RadixIndex& native) { return native.parent_key(first); }));
          },
          "chunks"_a, "The content key of the chunk before the first of these.")
      .def(
          "prefix_key",
          [](const IndexPointer& self, const PrefixHandle& handle, NamespaceId space) {
            const Pin& pin = pin_of(handle, self);
            return to_bytes(
                self->write([&](RadixIndex& native) { return native.prefix_key(space, pin); }));
          },
          "handle"_a, "namespace"_a = 0,
          "The content key of the last chunk that the handle covers whole.");
}

}  // namespace radixkv::bind
