#include "index/index_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/checksum.h"

namespace radixkv {

namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// To be renamed over a device, a pipe or a link to one would take that away from everybody.
void require_replaceable(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode)) return;
  errno = S_ISDIR(status.st_mode) ? EISDIR : EEXIST;
  fail(path);
}

template <class Head>
std::uint64_t checksum_behind_field(const Head& head, std::size_t num_bytes) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&head);
  return xxh3_64(bytes + sizeof head.checksum, num_bytes - sizeof head.checksum);
}

}  // namespace

IndexFile::IndexFile(const std::string& path, const IndexConfig& config)
    : path_(path), draft_(path + ".draft") {
  require_replaceable(path);
  // Its owner's alone to read: it holds what people asked.
  file_ = ::open(draft_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file_ < 0) fail(draft_);
  IndexFileHeader header{};
  header.magic = kIndexMagic;
  header.version = kIndexVersion;
  header.chunk_tokens = config.chunk_tokens;
  header.token_bytes = config.token_bytes;
  header.unit_bytes = config.unit_bytes;
  header.num_units = config.num_units;
  header.tail_slack = config.tail_slack;
  header.max_pinned = config.max_pinned;
  config.policy->name.copy(header.policy.data(), header.policy.size() - 1);
  header.checksum = checksum_behind_field(header, sizeof header);
  try {
    write(std::as_bytes(std::span(&header, 1)), 0);
  } catch (...) {
    discard();
    throw;
  }
  num_bytes_ = sizeof header;
}

IndexFile::~IndexFile() { discard(); }

void IndexFile::discard() {
  if (file_ >= 0) ::close(file_);
  if (!draft_.empty()) ::unlink(draft_.c_str());
}

void IndexFile::append(FrameKind kind, std::span<const std::byte> entries) {
  frame_.resize(sizeof(FrameHead));
  frame_.insert(frame_.end(), entries.begin(), entries.end());
  FrameHead head{0, next_sequence_, static_cast<std::uint32_t>(entries.size()), kind};
  std::memcpy(frame_.data(), &head, sizeof head);
  head.checksum =
      xxh3_64(frame_.data() + sizeof head.checksum, frame_.size() - sizeof head.checksum);
  std::memcpy(frame_.data(), &head, sizeof head);
  write(frame_, num_bytes_);
  num_bytes_ += frame_.size();
  ++next_sequence_;
}

void IndexFile::publish() {
  sync();
  if (std::rename(draft_.c_str(), path_.c_str()) != 0) fail(path_);
  draft_.clear();
  const std::filesystem::path folder = std::filesystem::absolute(path_).parent_path();
  const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) fail(folder);
  const int result = ::fsync(opened);
  ::close(opened);
  if (result != 0) fail(folder);
}

void IndexFile::sync() {
  if (::fdatasync(file_) != 0) fail(path_);
}

void IndexFile::write(std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(draft_.empty() ? path_ : draft_);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

}  // namespace radixkv
