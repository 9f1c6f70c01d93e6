// HeaderScan is every header of a file that counts by itself: read, and checked against its own
// checksum, layout and key. Whether they make sense together is recovery.h's to say.
//
//   piece:     0                1                2
//   chunks:   [2 5 6 | unused] [512 513 … 1023] [1024 | unused]     by header slot
//   tokens:   [2 5 6 | unused] [512 513 … 1023] [1024 | unused]
//
// A piece is 512 headers, read at once. Several threads take pieces in turn, each piece has its
// place in one array, so what one found is neither moved nor copied. Parts of the region that were
// never written are skipped where the file system tells.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/huge_pages.h"
#include "disk/disk_table.h"
#include "disk/format.h"

namespace radixkv {

// One chunk, as its header has it.
struct RecoveredChunk {
  std::uint32_t slot = 0;
  std::int64_t index = -1;           // where it is among those kept; -1 as long as it is not
  std::int64_t parent_index = -1;    // likewise the parent; -1 for the first of a prompt
  std::int32_t namespace_index = 0;  // into RecoveredChunks::namespaces
  std::uint64_t sequence = 0;
  std::uint64_t stored_bytes = 0;  // of the payload, without its extent's padding
  Digest parent_key{};
  DiskEntry entry;                // kDead where it was dropped after all
  const Token* tokens = nullptr;  // entry.num_tokens of them, in the scan
};

// Called about once a second of a long scan: headers read, headers that may have to be.
using ScanProgress = std::function<void(std::int64_t, std::int64_t)>;

class HeaderScan {
 public:
  struct Faults {
    std::int64_t torn = 0;
    std::int64_t foreign = 0;
    std::int64_t wrong_key = 0;
    std::int64_t cut = 0;
    std::vector<std::uint32_t> slots;  // of all four

    void add(const Faults& other);
  };

  // Reads with several threads. `file_bytes`: how long the file was found. Throws TierFailure where
  // the headers cannot be read.
  HeaderScan(int fd, std::int64_t file_bytes, const DiskShape& shape, const Digest& group_id,
             const ScanProgress& progress);

  std::size_t size() const;  // chunks found
  const Faults& faults() const { return faults_; }

  // Calls `visit` with each chunk found, by slot.
  template <class Visit>
  void for_each(Visit visit) {
    for (std::size_t piece = 0; piece < num_found_.size(); ++piece) {
      for (RecoveredChunk& chunk : std::span(first_chunk(piece), num_found_[piece])) visit(chunk);
    }
  }

 private:
  void read_all(int fd, const Digest& group_id, const ScanProgress& progress);
  void read_piece(int fd, std::size_t piece, const Digest& group_id, ChunkHeader* headers,
                  Faults* faults);
  RecoveredChunk* first_chunk(std::size_t piece) const;
  Token* first_tokens(std::size_t piece) const;
  void check(const ChunkHeader& header, std::uint32_t slot, const Digest& group_id,
             std::size_t piece, Faults* faults);
  void keep(const ChunkHeader& header, std::uint32_t slot, std::size_t piece);

  const std::int64_t file_bytes_;
  DiskShape shape_;
  std::vector<std::uint32_t> piece_slots_;  // first slot of each piece
  std::vector<std::uint32_t> num_found_;    // chunks in each piece
  Mapping chunks_;
  Mapping tokens_;
  Faults faults_;
};

}  // namespace radixkv
