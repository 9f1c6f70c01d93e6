// SavedIndex is an index as its file has it, before it is one again.
//
//   header | frame frame … last frame of the snapshot | frame frame …        one frame a flush
//
// The header has the index's settings; a frame has a checksum, its number, and entries of
// ChangeLog. A snapshot that is not whole is refused. Behind it what counts ends with the first
// frame that is torn or damaged, so what is read is always what the index was at some flush.
//
// Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "index/change_log.h"
#include "index/index_values.h"

namespace radixkv {

class IndexFile;

// The file is not a saved index, is damaged, or is of another version.
struct IndexFormatError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class SavedIndex {
 public:
  // Reads a file. Throws IndexFormatError, or std::system_error where it cannot be read.
  explicit SavedIndex(const std::string& path);

  // The settings of the index that was saved.
  const IndexConfig& config() const { return config_; }
  const std::string& policy_name() const { return policy_name_; }

  // Of the namespaces, in the order in which they were made.
  const std::vector<NamespaceDigest>& digests() const { return digests_; }
  // Parents before their children. What is kept without its parent is left out. Their tokens lie in
  // this object.
  std::vector<SavedChunk> chunks() const;
  const std::vector<MarkValues>& marks() const { return marks_; }
  const IndexTotals& totals() const { return totals_; }

  // Writes it as a snapshot, behind which the journal that it was read from may go on: its numbers
  // of chunks and namespaces hold.
  void save(IndexFile& file) const;

  // Of all that counts: equal where files say the same.
  std::uint64_t checksum() const { return checksum_; }
  // Bytes at the end that did not count.
  std::uint64_t num_lost_bytes() const { return num_lost_bytes_; }

 private:
  struct Row {
    SavedChunk chunk;
    ChunkId parent = kNoChunk;
  };
  class Reader;

  void read_header(Reader& reader);
  void read_frames(Reader& reader);
  void read_entries(Reader entries);
  void read_mark(Reader& entries, NamespaceId space);
  Row& row(ChunkId id);
  std::int32_t space_index(NamespaceId space) const;
  bool may_follow(ChunkId id) const;
  bool settle_below(const SavedChunk* parent, SavedChunk& chunk) const;

  std::unique_ptr<std::byte[]> bytes_;
  IndexConfig config_;
  std::string policy_name_;
  std::vector<NamespaceDigest> digests_;
  std::unordered_map<NamespaceId, std::int32_t> spaces_;
  std::vector<Row> rows_;  // by the id that the chunk had
  std::vector<MarkValues> marks_;
  IndexTotals totals_;
  std::uint64_t checksum_ = 0;
  std::uint64_t num_lost_bytes_ = 0;
};

}  // namespace radixkv
