#include "disk/disk_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

#include "core/tier_failure.h"

namespace radixkv {
namespace {

constexpr std::chrono::seconds kLastWritesPatience(10);
constexpr std::chrono::seconds kLookPatience(10);
constexpr mode_t kOwnerOnly = 0600;  // the files hold what people asked

using Kind = TierFailure::Kind;

[[noreturn]] void fail(Kind kind, const std::string& reason) {
  throw TierFailure(kind, "disk", "open", reason);
}

[[noreturn]] void fail_errno(const std::string& what, const std::string& path, int error) {
  std::string advice;
  if (error == EROFS || error == EACCES || error == EPERM) {
    advice = ": the folder must be writable; change its permissions or disk.path";
  } else if (error == ENOTDIR) {
    advice = ": a file lies where a folder is wanted; change disk.path";
  }
  fail(Kind::kOther, what + " " + path + " failed (" + std::strerror(error) + ")" + advice);
}

FileDescriptor open_or_fail(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, kOwnerOnly);
  if (fd < 0) fail_errno("opening", path, errno);
  return FileDescriptor(fd);
}

struct stat file_status(int fd, const std::string& path) {
  struct stat status {};
  if (fstat(fd, &status) != 0) fail_errno("reading", path, errno);
  return status;
}

void make_folder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) return;
  if (errno == ENOENT) {
    fail(Kind::kOther,
         "the folder above " + folder + " does not exist: create it or change disk.path");
  }
  fail_errno("creating the folder", folder, errno);
}

void sync_folder(const std::string& folder) {
  const FileDescriptor fd = open_or_fail(folder, O_RDONLY | O_DIRECTORY);
  if (fsync(fd.get()) != 0) fail_errno("syncing the folder", folder, errno);
}

std::string read_pid(int fd) {
  std::array<char, 32> text{};
  const ssize_t length = pread(fd, text.data(), text.size() - 1, 0);
  return length > 0 ? std::string(text.data(), static_cast<std::size_t>(length)) : "unknown";
}

Digest random_digest() {
  Digest digest;
  if (getrandom(digest.data(), digest.size(), 0) != static_cast<ssize_t>(digest.size())) {
    fail(Kind::kOther, std::string("getrandom failed (") + std::strerror(errno) + ")");
  }
  return digest;
}

Superblock read_superblock(int fd, const std::string& path) {
  const auto block = std::make_unique<Superblock>();
  const ssize_t length = pread(fd, block.get(), sizeof(Superblock), 0);
  if (length < 0) fail_errno("reading", path, errno);
  if (length != static_cast<ssize_t>(sizeof(Superblock)) || !is_intact(*block)) {
    fail(Kind::kFormat,
         path + " is not a radixkv file or its first block is damaged: delete it to begin anew");
  }
  return *block;
}

// Some file systems take O_DIRECT when a file is opened and refuse the reads.
bool reads_a_block(int fd) {
  const auto block = std::make_unique<Superblock>();
  return pread(fd, block.get(), sizeof(Superblock), 0) == static_cast<ssize_t>(sizeof(Superblock));
}

DiskShape shape_of(const Superblock& block) {
  return {block.layout_digest,  block.unit_bytes, block.chunk_tokens,
          block.capacity_units, block.world_size, block.rank};
}

// Names everything in which the file differs from what is wanted; empty if nothing does.
std::string differences(const Superblock& block, const DiskShape& wanted,
                        const std::optional<Digest>& group_id) {
  std::string text;
  const auto compare = [&text](const char* what, std::uint64_t there, std::uint64_t here) {
    if (there == here) return;
    text += std::string(text.empty() ? "" : ", ") + what + " " + std::to_string(there) +
            " instead of " + std::to_string(here);
  };
  const auto note = [&text](bool differs, const char* what) {
    if (differs) text += std::string(text.empty() ? "" : ", ") + what;
  };
  compare("format version", block.version, kFormatVersion);
  if (!text.empty()) return text;
  compare("chunk_tokens", block.chunk_tokens, wanted.chunk_tokens);
  // Units and the layout's digest follow from the chunk's length, too.
  const bool same_chunks = block.chunk_tokens == wanted.chunk_tokens;
  if (same_chunks) compare("unit bytes", block.unit_bytes, wanted.unit_bytes);
  compare("world size", block.world_size, wanted.world_size);
  compare("rank", block.rank, wanted.rank);
  note(same_chunks && block.layout_digest != wanted.layout_digest,
       "another KV layout (layers, row size or dtype)");
  if (text.empty()) {
    compare("another disk.size (set it back to keep what is there), in units", block.capacity_units,
            wanted.capacity_units);
  }
  note(group_id.has_value() && block.group_id != *group_id, "another group of ranks");
  return text;
}

}  // namespace

std::string disk_file_path(const std::string& folder, std::uint32_t rank) {
  return folder + "/rank" + std::to_string(rank) + ".radixkv";
}

DiskFile::DiskFile(const std::string& folder, const DiskShape& shape,
                   const std::optional<Digest>& group_id)
    : shape_(shape), path_(disk_file_path(folder, shape.rank)) {
  make_folder(folder);
  lock(folder);
  if (access(path_.c_str(), F_OK) != 0) {
    create(group_id);
    sync_folder(folder);
  }
  open_existing(group_id);
}

bool DiskFile::is_whole() const {
  struct stat status {};
  return fstat(fd_.get(), &status) == 0 && status.st_nlink > 0 &&
         status.st_size >= shape_.file_bytes();
}

void DiskFile::lock(const std::string& folder) {
  const std::string path = folder + "/rank" + std::to_string(shape_.rank) + ".lock";
  lock_ = open_or_fail(path, O_RDWR | O_CREAT);
  const auto patience = std::chrono::steady_clock::now() + kLookPatience;
  while (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) fail_errno("locking", path, errno);
    // Who only looks whether it is locked shares the lock for a moment.
    const bool is_used = flock(lock_.get(), LOCK_SH | LOCK_NB) != 0;
    if (is_used || std::chrono::steady_clock::now() > patience) {
      fail(Kind::kLocked, folder + " is used by process " + read_pid(lock_.get()) +
                              ": stop that process or give this one another disk.path");
    }
    flock(lock_.get(), LOCK_UN);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(lock_.get(), 0) != 0 ||
      pwrite(lock_.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    fail_errno("writing", path, errno);
  }
}

void DiskFile::create(const std::optional<Digest>& group_id) {
  const std::string temporary_path = path_ + ".new";
  unlink(temporary_path.c_str());
  const FileDescriptor fd = open_or_fail(temporary_path, O_RDWR | O_CREAT | O_EXCL);
  try {
    preallocate(fd.get(), temporary_path);
    const auto block = std::make_unique<Superblock>(
        make_superblock(shape_, group_id.has_value() ? *group_id : random_digest()));
    if (pwrite(fd.get(), block.get(), sizeof(Superblock), 0) !=
            static_cast<ssize_t>(sizeof(Superblock)) ||
        fsync(fd.get()) != 0 || rename(temporary_path.c_str(), path_.c_str()) != 0) {
      fail_errno("writing", temporary_path, errno);
    }
  } catch (...) {
    unlink(temporary_path.c_str());
    throw;
  }
  created_ = true;
}

void DiskFile::preallocate(int fd, const std::string& path) {
  const std::int64_t wanted =
      shape_.file_bytes() - std::int64_t{file_status(fd, path).st_blocks} * 512;
  struct statvfs device {};
  const bool known = fstatvfs(fd, &device) == 0;
  const std::uint64_t free_bytes = known ? std::uint64_t{device.f_bavail} * device.f_frsize : 0;
  const auto fail_full = [&] {
    fail(Kind::kOther, "no room for " + path_ + ": " + std::to_string(wanted) + " bytes wanted, " +
                           std::to_string(free_bytes) +
                           " free: free some or make disk.size smaller");
  };
  if (known && wanted > 0 && free_bytes < static_cast<std::uint64_t>(wanted)) fail_full();
  if (fallocate(fd, 0, 0, shape_.file_bytes()) == 0) return;
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) fail_full();
  if (errno != EOPNOTSUPP && errno != ENOSYS) fail_errno("preallocating", path, errno);
  preallocated_ = false;
  if (ftruncate(fd, shape_.file_bytes()) != 0) fail_errno("sizing", path, errno);
}

void DiskFile::open_existing(const std::optional<Digest>& group_id) {
  const Superblock block = read_superblock(open_or_fail(path_, O_RDONLY).get(), path_);
  const std::string differs = differences(block, shape_, group_id);
  if (!differs.empty()) {
    fail(Kind::kFormat, path_ + " was written with " + differs +
                            ": give disk.path another folder, or delete the file to begin anew");
  }
  group_id_ = block.group_id;
  fd_ = open_direct(path_, O_RDWR);
  direct_ = fd_.is_open();
  if (!direct_) fd_ = open_or_fail(path_, O_RDWR);
  wait_for_last_writes();
  found_bytes_ = file_status(fd_.get(), path_).st_size;
  // Cut short since, by hand or by a file system that lost it: chunks that lay there are dropped,
  // and room for new ones is made again.
  if (found_bytes_ < shape_.file_bytes()) preallocate(fd_.get(), path_);
}

// Writes that a killed process had in flight may land after it is gone. They hold the file open,
// and with it the lock on the file itself; the lock file's is free by then.
void DiskFile::wait_for_last_writes() {
  const auto patience = std::chrono::steady_clock::now() + kLastWritesPatience;
  while (flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) fail_errno("locking", path_, errno);
    if (std::chrono::steady_clock::now() > patience) {
      fail(Kind::kLocked, path_ + " is still being written by a process that is gone: try later");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

FileDescriptor open_direct(const std::string& path, int flags) {
  FileDescriptor fd(open(path.c_str(), flags | O_DIRECT | O_CLOEXEC));
  return fd.is_open() && reads_a_block(fd.get()) ? std::move(fd) : FileDescriptor();
}

FoundFile open_for_inspection(const std::string& path) {
  FoundFile found;
  found.path = path;
  found.fd = open_or_fail(path, O_RDONLY);
  const Superblock block = read_superblock(found.fd.get(), path);
  found.shape = shape_of(block);
  found.group_id = block.group_id;
  found.file_bytes = file_status(found.fd.get(), path).st_size;
  found.version = block.version;
  if (block.version != kFormatVersion) {
    fail(Kind::kFormat, path + " has format version " + std::to_string(block.version) +
                            ", this program reads " + std::to_string(kFormatVersion));
  }
  return found;
}

}  // namespace radixkv
