#include "net/chunk_object.h"

#include <algorithm>
#include <cstring>

#include "core/checksum.h"

namespace radixkv {
namespace {

constexpr std::array<char, 8> kMagic = {'r', 'k', 'v', 'c', 'h', 'u', 'n', 'k'};
constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kHexDigits = "0123456789abcdef";

// Of header and tokens, as they lie one behind the other.
std::uint64_t head_checksum(const ObjectHeader& header, std::span<const std::byte> tokens) {
  const std::array<std::uint64_t, 2> both = {xxh3_64(&header, offsetof(ObjectHeader, checksum)),
                                             xxh3_64(tokens.data(), tokens.size())};
  return xxh3_64(both.data(), sizeof both);
}

ObjectHeader header_of(const ObjectShape& shape, const ChunkObject& object,
                       std::uint64_t payload_checksum) {
  ObjectHeader header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.layout_digest = shape.layout_digest;
  header.key = object.key;
  header.rank = shape.rank;
  header.world_size = shape.world_size;
  header.stored_bytes = object.payload.size();
  header.payload_checksum = payload_checksum;
  header.num_tokens = static_cast<std::uint32_t>(object.tokens.size());
  header.checksum = head_checksum(header, std::as_bytes(object.tokens));
  return header;
}

}  // namespace

std::int64_t ChunkObject::num_parts() const {
  const auto size = static_cast<std::int64_t>(payload.size());
  return std::max<std::int64_t>(1, (size + kPartBytes - 1) / kPartBytes);
}

std::span<std::byte> ChunkObject::part(std::int64_t index) const {
  const auto first = static_cast<std::size_t>(index * kPartBytes);
  return payload.subspan(first, std::min<std::size_t>(kPartBytes, payload.size() - first));
}

std::string object_name(const ObjectShape& shape, const Digest& key, std::int64_t part) {
  std::string name =
      "rkv1:" + std::to_string(shape.rank) + "/" + std::to_string(shape.world_size) + ":";
  for (const std::byte byte : key) {
    name.push_back(kHexDigits[std::to_integer<std::size_t>(byte >> 4)]);
    name.push_back(kHexDigits[std::to_integer<std::size_t>(byte & std::byte{15})]);
  }
  if (part > 0) name.append(":").append(std::to_string(part));
  return name;
}

std::vector<std::byte> make_head(const ObjectShape& shape, const ChunkObject& object,
                                 std::uint64_t payload_checksum) {
  const ObjectHeader header = header_of(shape, object, payload_checksum);
  std::vector<std::byte> head(object.head_bytes());
  std::memcpy(head.data(), &header, sizeof header);
  std::memcpy(head.data() + sizeof header, object.tokens.data(), object.tokens.size_bytes());
  return head;
}

std::vector<std::byte> make_head(const ObjectShape& shape, const ChunkObject& object) {
  return make_head(shape, object, xxh3_64(object.payload.data(), object.payload.size()));
}

bool is_the_one(const ObjectShape& shape, const ChunkObject& object,
                std::span<const std::byte> head, std::uint64_t payload_checksum) {
  // What would have been put for this chunk with this payload is the only right answer.
  return std::ranges::equal(head, make_head(shape, object, payload_checksum));
}

}  // namespace radixkv
