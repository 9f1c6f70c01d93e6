// What lies in a rank's file on disk, byte for byte.
//
//   0        4 KiB                                   payload_offset
//   [superblock][header 0][header 1]…[header n - 1][ … ][unit 0][unit 1]…[unit capacity_units - 1]
//
//   n = capacity_units / 4 headers of 4 KiB, in no order; payload_offset is a multiple of 1 MiB.
//
// The superblock is written once, at creation. A header of zeros is free. Each block ends with the
// XXH3-64 of all that comes before it in the block, so that a torn or flipped one is found.
// Integers are little-endian.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/chunk_key.h"
#include "core/types.h"

namespace radixkv {

static_assert(std::endian::native == std::endian::little, "the file is written as memory has it");

inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::int64_t kBlockBytes = 4096;
inline constexpr int kMaxChunkTokens = 512;
inline constexpr std::int64_t kUnitsPerHeader = 4;

// What the owner of a folder must agree with its file about.
struct DiskShape {
  Digest layout_digest{};
  std::uint32_t unit_bytes = 0;
  std::uint32_t chunk_tokens = 0;
  std::uint32_t capacity_units = 0;
  std::uint32_t world_size = 1;
  std::uint32_t rank = 0;

  std::uint32_t num_headers() const;
  std::int64_t header_offset(std::uint32_t slot) const {
    return kBlockBytes * (1 + std::int64_t{slot});
  }
  std::int64_t payload_offset() const;
  std::int64_t unit_offset(std::uint32_t unit) const;
  std::int64_t file_bytes() const { return unit_offset(capacity_units); }

  // The most units whose file does not exceed `capacity_bytes`; may be 0.
  static std::uint32_t units_that_fit(std::int64_t capacity_bytes, std::int64_t unit_bytes);
};

struct alignas(kBlockBytes) Superblock {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t unit_bytes;
  std::uint32_t chunk_tokens;
  std::uint32_t capacity_units;
  std::uint32_t world_size;
  std::uint32_t rank;
  Digest layout_digest;
  Digest group_id;  // drawn at creation, the same on all ranks of a group
  std::array<std::byte, 4016> unused;
  std::uint64_t checksum;
};
static_assert(sizeof(Superblock) == kBlockBytes);

struct alignas(kBlockBytes) ChunkHeader {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t codec;  // 0: the bytes as they are
  Digest layout_digest;
  Digest namespace_digest;
  Digest group_id;
  Digest key;
  Digest parent_key;
  std::uint64_t sequence;
  std::uint64_t stored_bytes;      // without the padding of the extent
  std::uint64_t payload_checksum;  // XXH3-64 of the whole extent
  std::uint32_t span;
  std::uint32_t disk_offset;
  std::uint16_t num_units;
  std::uint16_t num_tokens;
  std::uint32_t reserved;
  std::array<Token, kMaxChunkTokens> tokens;
  std::array<std::byte, 1904> unused;
  std::uint64_t checksum;
};
static_assert(sizeof(ChunkHeader) == kBlockBytes);

std::uint64_t payload_checksum(std::span<const std::byte> extent);

Superblock make_superblock(const DiskShape& shape, const Digest& group_id);

// The magic and checksum are right. The version may still be another.
bool is_intact(const Superblock& block);

// Fills magic, version and checksum.
void seal(ChunkHeader* header);

// Why a header does not count.
enum class HeaderFault { kNone, kEmpty, kTorn, kForeign, kKey };

// kEmpty: zeros. kTorn: wrong checksum. kForeign: of another format, layout, group or out of the
// file's bounds. kKey: its key is not the hash of its parent's key and tokens, or a first chunk's
// parent is not its namespace.
HeaderFault check_header(const ChunkHeader& header, const DiskShape& shape, const Digest& group_id);

}  // namespace radixkv
