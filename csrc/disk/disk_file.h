// DiskFile is a rank's file and its lock: created or opened, checked, and held for as long as the
// object lives.
//
//   FOLDER/rank0.radixkv    the file of format.h
//   FOLDER/rank0.lock       locked with flock while in use; holds the owner's process id
//
// The file is created whole: preallocated, so that a device that is too full says so at start, and
// renamed into place when its superblock is down. It is never mapped: a file that is cut behind our
// back gives failed reads.
//
// Thread safety: the fields after construction from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/file_descriptor.h"
#include "disk/format.h"

namespace radixkv {

std::string disk_file_path(const std::string& folder, std::uint32_t rank);

class DiskFile {
 public:
  // Opens FOLDER's file of `shape.rank`, or creates it with `group_id` (random where not given).
  // Throws TierFailure: kLocked where another process holds the folder, kFormat where the file is
  // of another shape, version or group, kOther where the system refuses.
  DiskFile(const std::string& folder, const DiskShape& shape,
           const std::optional<Digest>& group_id);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  const Digest& group_id() const { return group_id_; }
  bool created() const { return created_; }
  std::int64_t found_bytes() const { return found_bytes_; }  // its length when it was opened
  bool direct() const { return direct_; }                    // O_DIRECT was allowed
  bool preallocated() const { return preallocated_; }  // else a full device shows only when writing

  // The file is still in its folder and as long as it was made: what is written to it can be found
  // again.
  bool is_whole() const;

 private:
  void lock(const std::string& folder);
  void create(const std::optional<Digest>& group_id);
  void preallocate(int fd, const std::string& path);
  void open_existing(const std::optional<Digest>& group_id);
  void wait_for_last_writes();

  DiskShape shape_;
  std::string path_;
  FileDescriptor lock_;
  FileDescriptor fd_;
  Digest group_id_{};
  bool created_ = false;
  std::int64_t found_bytes_ = 0;
  bool direct_ = false;
  bool preallocated_ = true;
};

// A file found in a folder, read-only and without its lock.
struct FoundFile {
  std::string path;
  FileDescriptor fd;
  DiskShape shape;
  Digest group_id{};
  std::int64_t file_bytes = 0;
  std::uint32_t version = 0;
};

// The same file for reads past the page cache, in whole blocks; not open where the file system
// refuses that.
FileDescriptor open_direct(const std::string& path, int flags);

// Opens one file to look at it. Throws TierFailure where it cannot be read or is not ours.
FoundFile open_for_inspection(const std::string& path);

}  // namespace radixkv
