// Fetcher executes fetches: disk → memory, verified before anyone sees the bytes.
//
//   a chunk's way:  in the table? ─▶ memory extent untagged ─▶ read ─▶ checksum right? ─▶ tagged
//
// Chunks of all queued commands follow each other without a gap; commands complete in order.
// Thread safety: the disk thread's.
#pragma once

#include <deque>
#include <memory>

#include "disk/disk_command.h"
#include "disk/io_window.h"

namespace radixkv {

class Fetcher {
 public:
  Fetcher(const DiskContext* context, IoWindow* reads) : context_(*context), reads_(*reads) {}

  void add(DiskCommand command);

  // Begins chunks while the window wants more, and completes what is done.
  void pump();

  // Chunks that are not begun fail.
  void abandon();

  bool idle() const { return running_.empty(); }

 private:
  void begin_next(RunningCommand* running);
  void verify(RunningCommand* running, std::size_t index, std::uint64_t checksum);
  void complete_ended();

  const DiskContext& context_;
  IoWindow& reads_;
  std::deque<std::unique_ptr<RunningCommand>> running_;  // in order of submission
};

}  // namespace radixkv
