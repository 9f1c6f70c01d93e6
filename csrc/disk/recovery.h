// Reads the headers of a file back and keeps those that make sense together.
//
//   1. each for itself: checksum, layout, key         header_scan.h
//   2. the newest of those with one key or extent     highest sequence number first
//   3. those whose parent is kept                     oldest first, and parents before all
//
// What is dropped is counted by the reason. Payloads are not read: they are verified when they are
// fetched. 100,000 chunks take a fraction of a second, a million what reading 4 GiB takes.
#pragma once

#include <cstdint>
#include <vector>

#include "disk/header_scan.h"

namespace radixkv {

struct DropCounts {
  std::int64_t torn = 0;        // its checksum is wrong
  std::int64_t foreign = 0;     // another format, layout or group, or out of bounds
  std::int64_t wrong_key = 0;   // not the hash of its parent and tokens
  std::int64_t cut = 0;         // its payload is beyond the end of the file
  std::int64_t duplicate = 0;   // a newer chunk has its key
  std::int64_t overlapped = 0;  // a newer chunk has (part of) its extent
  std::int64_t orphan = 0;      // its parent is not there, or not a full one
};

struct RecoveredChunks {
  HeaderScan scan;  // owns the chunks
  // Those that are kept, in the order of their sequence numbers as far as parents come first: a
  // prompt that was spilled at once lies side by side.
  std::vector<const RecoveredChunk*> chunks;
  std::vector<Digest> namespaces;
  std::vector<std::uint32_t> dropped_slots;  // headers that are neither free nor kept
  DropCounts dropped;
};

// `file_bytes`: how long the file was found. Throws TierFailure where the headers cannot be read.
RecoveredChunks recover(int fd, std::int64_t file_bytes, const DiskShape& shape,
                        const Digest& group_id, const ScanProgress& progress = {});

}  // namespace radixkv
