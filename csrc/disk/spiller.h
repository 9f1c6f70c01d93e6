// Spiller executes spills (memory → disk) and clears, in the order in which they came. A clear of
// what is still being written begins when that has been acknowledged.
//
//   a chunk's way:  memory holds it? ─▶ headers over its extent cleared ─▶ payload ─▶ header
//                   ─▶ synced ─▶ acknowledged
//
// The order keeps a killed process's file right: a header is in the file only while its payload is.
// Should the device reorder what the file system was not told to sync, checksums find it.
// While headers are being cleared nothing new is begun, so an extent or header slot is never reused
// too early.
//
// Thread safety: the disk thread's.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "disk/disk_command.h"
#include "disk/group_sync.h"
#include "disk/io_window.h"

namespace radixkv {

class Spiller {
 public:
  Spiller(const DiskContext* context, IoWindow* writes, GroupSync* sync)
      : context_(*context), writes_(*writes), sync_(*sync) {}

  void add(DiskCommand command);

  // Begins chunks while the window wants more, and completes what is done.
  void pump();

  // Everything up to `epoch` is synced, or with an error is not.
  void on_synced(std::uint64_t epoch, int error);

  // Chunks that are not begun fail. Clears go on: what they are about would be found again.
  void abandon();

  bool idle() const { return running_.empty() && num_clearing_ == 0; }

 private:
  struct Spill : RunningCommand {
    using RunningCommand::RunningCommand;
    std::vector<std::uint32_t> slots;  // of the chunks begun
    std::vector<Digest> parent_keys;   // of the chunks begun
    std::size_t next_token = 0;        // where the next chunk's tokens begin
    std::uint64_t first_epoch = 0;     // of its first write; 0 before
    std::uint64_t epoch = 0;           // of its latest write
    bool cleared_for_next = false;     // headers over the next chunk's extent were cleared already
    std::optional<bool> waits;         // a clear, for the commands before it; unknown before a look
  };

  void begin_what_may();
  bool must_wait(Spill* spill) const;
  void begin_next(Spill* spill);
  void begin_clear(Spill* spill);
  bool make_way(Spill* spill, const ChunkRef& chunk);
  bool find_parent_key(const Spill& spill, const ChunkRef& chunk, Digest* key) const;
  void write_payload(Spill* spill, std::size_t index);
  void write_header(Spill* spill, std::size_t index, std::shared_ptr<ChunkHeader> header);
  std::shared_ptr<ChunkHeader> make_header(const Spill& spill, std::size_t index) const;
  void discard(std::uint32_t slot, IoWindow::Done then);
  bool complete_ended();  // false where nothing has
  void acknowledge(Spill* spill);

  const DiskContext& context_;
  IoWindow& writes_;
  GroupSync& sync_;
  std::deque<std::unique_ptr<Spill>> running_;  // in order of submission
  int num_clearing_ = 0;
};

}  // namespace radixkv
