#include "disk/inspection.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

namespace radixkv {

namespace {

// The headers of a full disk are gigabytes that nobody reads again: not through the page cache.
RecoveredChunks recover_directly(const FoundFile& file) {
  const FileDescriptor direct = open_direct(file.path, O_RDONLY);
  return recover(direct.is_open() ? direct.get() : file.fd.get(), file.file_bytes, file.shape,
                 file.group_id);
}

}  // namespace

Inspection::Inspection(const std::string& path)
    : file_(open_for_inspection(path)), recovered_(recover_directly(file_)) {}

std::optional<std::vector<std::byte>> Inspection::read(std::size_t index) const {
  const DiskEntry& entry = recovered_.chunks[index]->entry;
  std::vector<std::byte> extent(std::size_t{entry.num_units} * file_.shape.unit_bytes);
  const std::int64_t offset = file_.shape.unit_offset(entry.disk_offset);
  std::size_t done = 0;
  while (done < extent.size()) {
    const ssize_t got = pread(file_.fd.get(), extent.data() + done, extent.size() - done,
                              offset + static_cast<std::int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::nullopt;
    done += static_cast<std::size_t>(got);
  }
  if (payload_checksum(extent) != entry.checksum) return std::nullopt;
  extent.resize(recovered_.chunks[index]->stored_bytes);
  return extent;
}

}  // namespace radixkv
