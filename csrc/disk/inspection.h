// Inspection looks at a rank's file without owning it: read-only, beside whoever is writing it.
//
// What it lists is a snapshot; a chunk that is replaced meanwhile shows as damaged.
// Thread safety: `read` and `verify` from any threads.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "disk/disk_file.h"
#include "disk/recovery.h"

namespace radixkv {

class Inspection {
 public:
  // Throws TierFailure where the file cannot be read or is not ours.
  explicit Inspection(const std::string& path);

  const FoundFile& file() const { return file_; }
  const RecoveredChunks& recovered() const { return recovered_; }

  // Reads the payload of one chunk, without the padding of its extent; nullopt unless it is whole
  // and has its checksum. REQUIRES: index < chunks.
  std::optional<std::vector<std::byte>> read(std::size_t index) const;
  bool verify(std::size_t index) const { return read(index).has_value(); }

 private:
  FoundFile file_;
  RecoveredChunks recovered_;
};

}  // namespace radixkv
