// A chunk as an object on another machine: what it is called, and what it looks like.
//
//   name    rkv1:<rank>/<world size>:<key in hexadecimal>      parts behind the first: …:1, …:2
//   value   [header 88 bytes][tokens][payload]                 of the first part
//           [payload]                                          of the others, 4 MiB each
//
// The key is the chain of hashes of core/chunk_key.h, so equal prefixes in equal namespaces have
// equal names on machines that never spoke, and who does not know a namespace cannot name what is
// in it. The first part is written last: an object that has it has all parts. Nothing in a value is
// believed: whoever reads one compares layout, key, tokens and checksum with what was asked for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/chunk_key.h"
#include "core/types.h"

namespace radixkv {

inline constexpr std::int64_t kPartBytes = 4 << 20;

// What all objects of one rank have in common.
struct ObjectShape {
  Digest layout_digest{};
  std::uint32_t rank = 0;
  std::uint32_t world_size = 1;
  std::size_t chunk_tokens = 0;
  std::int64_t num_rows = 0;  // of a token: layers times K and V
  std::int64_t row_bytes = 0;

  std::int64_t token_bytes() const { return num_rows * row_bytes; }
};

struct ObjectHeader {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t codec;  // 0: the bytes as they are
  Digest layout_digest;
  Digest key;
  std::uint32_t rank;
  std::uint32_t world_size;
  std::uint64_t stored_bytes;
  std::uint64_t payload_checksum;  // XXH3-64
  std::uint32_t num_tokens;
  std::uint32_t reserved;
  std::uint64_t checksum;  // XXH3-64 of the header before it, then of the tokens
};
static_assert(sizeof(ObjectHeader) == 88);

inline constexpr std::size_t kMaxHeadBytes = 4096;  // a chunk has 512 tokens at most

// A chunk to put, or to get. `payload` is exactly as long as its tokens need.
struct ChunkObject {
  Digest parent_key;
  Digest key;
  std::span<const Token> tokens;
  std::span<std::byte> payload;

  std::int64_t num_parts() const;
  std::span<std::byte> part(std::int64_t index) const;
  std::size_t head_bytes() const { return sizeof(ObjectHeader) + tokens.size_bytes(); }
};

std::string object_name(const ObjectShape& shape, const Digest& key, std::int64_t part = 0);

// Header and tokens, as they stand before the payload. Without its checksum, reads all of the
// payload.
std::vector<std::byte> make_head(const ObjectShape& shape, const ChunkObject& object);
std::vector<std::byte> make_head(const ObjectShape& shape, const ChunkObject& object,
                                 std::uint64_t payload_checksum);

// Whether a head and the payload that came with it, by its checksum, are those of the chunk that
// was asked for.
bool is_the_one(const ObjectShape& shape, const ChunkObject& object,
                std::span<const std::byte> head, std::uint64_t payload_checksum);

}  // namespace radixkv
