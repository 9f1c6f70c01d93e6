#include "disk/format.h"

#include <algorithm>
#include <cstring>

#include "core/checksum.h"

namespace radixkv {
namespace {

constexpr std::array<char, 8> kFileMagic = {'r', 'a', 'd', 'i', 'x', 'k', 'v', '\n'};
constexpr std::array<char, 8> kHeaderMagic = {'r', 'k', 'v', 'c', 'h', 'u', 'n', 'k'};
constexpr std::int64_t kPayloadAlignment = std::int64_t{1} << 20;

template <typename Block>
std::uint64_t block_checksum(const Block& block) {
  return xxh3_64(&block, offsetof(Block, checksum));
}

bool is_zero(const ChunkHeader& header) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&header);
  // Comparing a block with itself, shifted by one, is memcmp's speed for "all equal to the first".
  return bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, kBlockBytes - 1) == 0;
}

bool is_in_bounds(const ChunkHeader& header, const DiskShape& shape) {
  const std::uint64_t end = std::uint64_t{header.disk_offset} + header.num_units;
  return header.num_units > 0 && end <= shape.capacity_units && header.num_tokens > 0 &&
         header.num_tokens <= shape.chunk_tokens &&
         header.stored_bytes <= std::uint64_t{header.num_units} * shape.unit_bytes;
}

}  // namespace

std::uint32_t DiskShape::num_headers() const {
  return static_cast<std::uint32_t>(std::max<std::int64_t>(1, capacity_units / kUnitsPerHeader));
}

std::int64_t DiskShape::payload_offset() const {
  const std::int64_t headers_end = header_offset(num_headers());
  return (headers_end + kPayloadAlignment - 1) / kPayloadAlignment * kPayloadAlignment;
}

std::int64_t DiskShape::unit_offset(std::uint32_t unit) const {
  return payload_offset() + std::int64_t{unit} * unit_bytes;
}

std::uint32_t DiskShape::units_that_fit(std::int64_t capacity_bytes, std::int64_t unit_bytes) {
  const std::int64_t most = std::min<std::int64_t>(capacity_bytes / unit_bytes, kNoExtent - 1);
  std::int64_t units =
      most * unit_bytes * kUnitsPerHeader / (unit_bytes * kUnitsPerHeader + kBlockBytes);
  DiskShape shape;
  shape.unit_bytes = static_cast<std::uint32_t>(unit_bytes);
  for (; units > 0; --units) {
    shape.capacity_units = static_cast<std::uint32_t>(units);
    if (shape.file_bytes() <= capacity_bytes) break;
  }
  return static_cast<std::uint32_t>(units);
}

std::uint64_t payload_checksum(std::span<const std::byte> extent) {
  return xxh3_64(extent.data(), extent.size());
}

Superblock make_superblock(const DiskShape& shape, const Digest& group_id) {
  Superblock block{};
  block.magic = kFileMagic;
  block.version = kFormatVersion;
  block.unit_bytes = shape.unit_bytes;
  block.chunk_tokens = shape.chunk_tokens;
  block.capacity_units = shape.capacity_units;
  block.world_size = shape.world_size;
  block.rank = shape.rank;
  block.layout_digest = shape.layout_digest;
  block.group_id = group_id;
  block.checksum = block_checksum(block);
  return block;
}

bool is_intact(const Superblock& block) {
  return block.magic == kFileMagic && block.checksum == block_checksum(block);
}

void seal(ChunkHeader* header) {
  header->magic = kHeaderMagic;
  header->version = kFormatVersion;
  header->checksum = block_checksum(*header);
}

HeaderFault check_header(const ChunkHeader& header, const DiskShape& shape,
                         const Digest& group_id) {
  if (is_zero(header)) return HeaderFault::kEmpty;
  if (header.checksum != block_checksum(header)) return HeaderFault::kTorn;
  if (header.magic != kHeaderMagic || header.version != kFormatVersion || header.codec != 0 ||
      header.layout_digest != shape.layout_digest || header.group_id != group_id ||
      !is_in_bounds(header, shape)) {
    return HeaderFault::kForeign;
  }
  const std::span<const Token> tokens(header.tokens.data(), header.num_tokens);
  if (header.span == 0 && header.parent_key != root_key(header.namespace_digest)) {
    return HeaderFault::kKey;
  }
  return header.key == chunk_key(header.parent_key, tokens) ? HeaderFault::kNone
                                                            : HeaderFault::kKey;
}

}  // namespace radixkv
