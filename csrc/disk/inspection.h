// Inspection looks at a rank's file without owning it: read-only, beside whoever is writing it.
//
// What it lists is a snapshot; a chunk that is replaced meanwhile shows as damaged.
// Thread safety: `verify` from any threads.
#pragma once

#include <cstddef>
#include <string>

#include "disk/disk_file.h"
#include "disk/recovery.h"

namespace radixkv {

class Inspection {
 public:
  // Throws TierFailure where the file cannot be read or is not ours.
  explicit Inspection(const std::string& path);

  const FoundFile& file() const { return file_; }
  const RecoveredChunks& recovered() const { return recovered_; }

  // Reads the payload of one chunk; true if it is whole and has its checksum. REQUIRES: index <
  // chunks.
  bool verify(std::size_t index) const;

 private:
  FoundFile file_;
  RecoveredChunks recovered_;
};

}  // namespace radixkv
