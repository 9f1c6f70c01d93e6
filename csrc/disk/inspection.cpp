#include "disk/inspection.h"

#include <unistd.h>

#include <cerrno>
#include <vector>

namespace radixkv {

Inspection::Inspection(const std::string& path)
    : file_(open_for_inspection(path)),
      recovered_(recover(file_.fd.get(), file_.shape, file_.group_id)) {}

bool Inspection::verify(std::size_t index) const {
  const DiskEntry& entry = recovered_.chunks[index].entry;
  std::vector<std::byte> extent(std::size_t{entry.num_units} * file_.shape.unit_bytes);
  const std::int64_t offset = file_.shape.unit_offset(entry.disk_offset);
  std::size_t done = 0;
  while (done < extent.size()) {
    const ssize_t got = pread(file_.fd.get(), extent.data() + done, extent.size() - done,
                              offset + static_cast<std::int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<std::size_t>(got);
  }
  return payload_checksum(extent) == entry.checksum;
}

}  // namespace radixkv
