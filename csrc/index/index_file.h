// The file that an index is saved to: what SavedIndex reads, as it is written.
//
// A snapshot is written beside the file it replaces, synced, and renamed, so there is always a
// whole one. A journal goes on behind it: each append is one frame. Thread safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "index/index_values.h"

namespace radixkv {

inline constexpr std::uint64_t kIndexMagic = 0x5845444E49564B52ull;  // "RKVINDEX"
inline constexpr std::uint32_t kIndexVersion = 1;

struct IndexFileHeader {
  std::uint64_t checksum;  // of what follows in the header
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t chunk_tokens;
  std::int64_t token_bytes;
  std::int64_t unit_bytes;
  std::array<std::uint32_t, kNumTiers> num_units;
  std::uint32_t tail_slack;
  std::uint32_t unused;
  double max_pinned;
  std::array<char, 16> policy;  // its name, filled up with zeros
};
static_assert(sizeof(IndexFileHeader) == 80);

// A snapshot is cut into frames of about so many bytes.
inline constexpr std::size_t kFrameBytes = 1 << 20;

enum class FrameKind : std::uint32_t { kSnapshot = 1, kSnapshotEnd = 2, kJournal = 3 };

struct FrameHead {
  std::uint64_t checksum;  // of what follows, entries and all
  std::uint64_t sequence;  // 1, 2, 3, …
  std::uint32_t num_bytes;
  FrameKind kind;
};
static_assert(sizeof(FrameHead) == 24);

class IndexFile {
 public:
  // Begins a snapshot beside `path`. Errors of all calls are std::system_error.
  IndexFile(const std::string& path, const IndexConfig& config);
  ~IndexFile();
  IndexFile(const IndexFile&) = delete;
  IndexFile& operator=(const IndexFile&) = delete;

  // Adds a frame of entries. Where that fails the file is as it was, and the call may be repeated.
  void append(FrameKind kind, std::span<const std::byte> entries);

  // The snapshot is whole: it takes its place, on the disk for good.
  void publish();

  // Brings what was appended to the disk.
  void sync();

  std::uint64_t num_bytes() const { return num_bytes_; }

 private:
  void write(std::span<const std::byte> bytes, std::uint64_t offset);
  void discard();

  std::string path_;
  std::string draft_;  // empty once it was renamed
  int file_ = -1;
  std::uint64_t num_bytes_ = 0;
  std::uint64_t next_sequence_ = 1;
  std::vector<std::byte> frame_;
};

}  // namespace radixkv
