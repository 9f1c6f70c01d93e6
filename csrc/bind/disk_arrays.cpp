#include "bind/disk_arrays.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

namespace radixkv::bind {

namespace py = pybind11;

namespace {

// Adds an array and returns where its values go.
template <typename Value>
Value* add_column(Fields& fields, const char* name, std::size_t count) {
  py::array_t<Value> array(static_cast<py::ssize_t>(count));
  fields[name] = array;
  return array.mutable_data();
}

py::dict drop_counts(const DropCounts& dropped) {
  py::dict counts;
  counts["torn"] = dropped.torn;
  counts["foreign"] = dropped.foreign;
  counts["wrong_key"] = dropped.wrong_key;
  counts["cut"] = dropped.cut;
  counts["duplicate"] = dropped.duplicate;
  counts["overlapped"] = dropped.overlapped;
  counts["orphan"] = dropped.orphan;
  return counts;
}

}  // namespace

Fields restored_fields(const RecoveredChunks& recovered, const Digest& group_id) {
  constexpr std::size_t kKeyBytes = sizeof(Digest);
  const std::size_t count = recovered.chunks.size();
  std::size_t num_all_tokens = 0;
  for (const RecoveredChunk* chunk : recovered.chunks) num_all_tokens += chunk->entry.num_tokens;
  Fields fields;
  std::int64_t* parent_index = add_column<std::int64_t>(fields, "parent_index", count);
  std::uint16_t* num_tokens = add_column<std::uint16_t>(fields, "num_tokens", count);
  Token* tokens = add_column<Token>(fields, "tokens", num_all_tokens);
  std::uint32_t* disk_offset = add_column<std::uint32_t>(fields, "disk_offset", count);
  std::uint16_t* num_units = add_column<std::uint16_t>(fields, "num_units", count);
  std::int32_t* namespace_index = add_column<std::int32_t>(fields, "namespace_index", count);
  std::uint64_t* sequence = add_column<std::uint64_t>(fields, "sequence", count);
  py::array_t<std::uint8_t> keys({count, kKeyBytes});
  std::uint8_t* key = keys.mutable_data();
  fields["keys"] = keys;
  for (const RecoveredChunk* chunk : recovered.chunks) {
    const DiskEntry& entry = chunk->entry;
    *parent_index++ = chunk->parent_index;
    *num_tokens++ = entry.num_tokens;
    tokens = std::copy_n(chunk->tokens, entry.num_tokens, tokens);
    *disk_offset++ = entry.disk_offset;
    *num_units++ = entry.num_units;
    *namespace_index++ = chunk->namespace_index;
    *sequence++ = chunk->sequence;
    std::memcpy(key, entry.key.data(), kKeyBytes);
    key += kKeyBytes;
  }
  py::list digests;
  for (const Digest& digest : recovered.namespaces) digests.append(to_bytes(digest));
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
