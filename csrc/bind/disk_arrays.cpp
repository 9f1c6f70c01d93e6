#include "bind/disk_arrays.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

namespace radixkv::bind {

namespace py = pybind11;

namespace {

// One array of a field of every chunk.
template <typename Value, typename Field>
py::array_t<Value> column(const std::vector<RecoveredChunk>& chunks, Field field) {
  py::array_t<Value> array(static_cast<py::ssize_t>(chunks.size()));
  Value* out = array.mutable_data();
  for (const RecoveredChunk& chunk : chunks) *out++ = static_cast<Value>(field(chunk));
  return array;
}

py::array_t<Token> all_tokens(const RecoveredChunks& recovered) {
  std::size_t num_tokens = 0;
  for (const RecoveredChunk& chunk : recovered.chunks) num_tokens += chunk.entry.num_tokens;
  py::array_t<Token> array(static_cast<py::ssize_t>(num_tokens));
  Token* out = array.mutable_data();
  for (const RecoveredChunk& chunk : recovered.chunks) {
    out = std::copy_n(recovered.tokens.data() + chunk.token_begin, chunk.entry.num_tokens, out);
  }
  return array;
}

py::array_t<std::uint8_t> all_keys(const std::vector<RecoveredChunk>& chunks) {
  constexpr std::size_t kKeyBytes = sizeof(Digest);
  py::array_t<std::uint8_t> array({chunks.size(), kKeyBytes});
  std::uint8_t* out = array.mutable_data();
  for (const RecoveredChunk& chunk : chunks) {
    std::memcpy(out, chunk.entry.key.data(), kKeyBytes);
    out += kKeyBytes;
  }
  return array;
}

py::dict drop_counts(const DropCounts& dropped) {
  py::dict counts;
  counts["torn"] = dropped.torn;
  counts["foreign"] = dropped.foreign;
  counts["wrong_key"] = dropped.wrong_key;
  counts["duplicate"] = dropped.duplicate;
  counts["overlapped"] = dropped.overlapped;
  counts["orphan"] = dropped.orphan;
  return counts;
}

}  // namespace

Fields restored_fields(const RecoveredChunks& recovered, const Digest& group_id) {
  using Chunk = RecoveredChunk;
  const auto& chunks = recovered.chunks;
  py::list digests;
  for (const Digest& digest : recovered.namespaces) digests.append(to_bytes(digest));
  Fields fields;
  fields["parent_index"] =
      column<std::int64_t>(chunks, [](const Chunk& c) { return c.parent_index; });
  fields["num_tokens"] =
      column<std::uint16_t>(chunks, [](const Chunk& c) { return c.entry.num_tokens; });
  fields["tokens"] = all_tokens(recovered);
  fields["disk_offset"] =
      column<std::uint32_t>(chunks, [](const Chunk& c) { return c.entry.disk_offset; });
  fields["num_units"] =
      column<std::uint16_t>(chunks, [](const Chunk& c) { return c.entry.num_units; });
  fields["namespace_index"] =
      column<std::int32_t>(chunks, [](const Chunk& c) { return c.namespace_index; });
  fields["sequence"] = column<std::uint64_t>(chunks, [](const Chunk& c) { return c.sequence; });
  fields["keys"] = all_keys(chunks);
  fields["digests"] = digests;
  fields["group_id"] = to_bytes(group_id);
  fields["dropped"] = drop_counts(recovered.dropped);
  return fields;
}

py::bytes to_bytes(const Digest& digest) {
  return py::bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
}

Digest to_digest(const char* argument, const py::bytes& bytes) {
  const auto view = static_cast<std::string_view>(bytes);
  Digest digest;
  if (view.size() != digest.size()) {
    throw std::invalid_argument(std::string(argument) + ": expected 16 bytes, got " +
                                std::to_string(view.size()));
  }
  std::memcpy(digest.data(), view.data(), digest.size());
  return digest;
}

}  // namespace radixkv::bind
