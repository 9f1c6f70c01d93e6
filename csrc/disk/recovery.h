// Reads the headers of a file back and keeps those that make sense together.
//
//   1. each for itself: checksum, layout, key         several threads
//   2. the newest of those with one key or extent     highest sequence number first
//   3. those whose parent is kept                     from the root down
//
// What is dropped is counted by the reason. Payloads are not read: they are verified when they are
// fetched. 100,000 chunks take a fraction of a second: the region is read in large pieces, and its
// never written parts are skipped where the file system tells.
#pragma once

#include <cstdint>
#include <vector>

#include "disk/disk_table.h"
#include "disk/format.h"

namespace radixkv {

// One kept chunk, beside its entry.
struct RecoveredChunk {
  std::uint32_t slot = 0;
  std::int64_t parent_index =
      -1;  // into RecoveredChunks::chunks, always smaller; -1 for the first of a prompt
  std::int32_t namespace_index = 0;  // into RecoveredChunks::namespaces
  std::uint64_t sequence = 0;
  std::uint64_t stored_bytes = 0;  // of the payload, without its extent's padding
  Digest parent_key{};
  DiskEntry entry;
  std::size_t token_begin = 0;  // into RecoveredChunks::tokens, where entry.num_tokens are its own
};

struct DropCounts {
  std::int64_t torn = 0;        // its checksum is wrong
  std::int64_t foreign = 0;     // another format, layout or group, or out of bounds
  std::int64_t wrong_key = 0;   // not the hash of its parent and tokens
  std::int64_t duplicate = 0;   // a newer chunk has its key
  std::int64_t overlapped = 0;  // a newer chunk has (part of) its extent
  std::int64_t orphan = 0;      // its parent is not there, or not a full one
};

struct RecoveredChunks {
  std::vector<RecoveredChunk> chunks;  // parents first
  std::vector<Token> tokens;           // of all chunks, also of some that were dropped
  std::vector<Digest> namespaces;
  std::vector<std::uint32_t> dropped_slots;  // headers that are neither free nor kept
  DropCounts dropped;
};

// Throws TierFailure where the headers cannot be read.
RecoveredChunks recover(int fd, const DiskShape& shape, const Digest& group_id);

}  // namespace radixkv
