// DiskTier is the disk half of the data plane: a file, what is known about it, and one thread that
// serves it.
//
//   submit ─▶ inbox ─▶ disk thread: Spiller │ Fetcher ─▶ IoWindow ─▶ IoEngine ─▶ completion sink
//
// The thread only starts I/O, hashes what moves and reports; it never waits for one request while
// another could run. Reads come first: while any is on its way, writes keep only a small part of
// the device.
//
// Thread safety: `submit` from any thread; the rest from the owner's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "disk/disk_command.h"
#include "disk/disk_file.h"
#include "disk/fetcher.h"
#include "disk/group_sync.h"
#include "disk/io_engine.h"
#include "disk/io_window.h"
#include "disk/recovery.h"
#include "disk/spiller.h"

namespace radixkv {

struct DiskOptions {
  std::string folder;
  DiskShape shape;
  std::int64_t token_bytes = 0;
  std::optional<Digest>
      group_id;               // wanted of the file; drawn at random for a new file where not given
  bool group_durable = true;  // acknowledge after a group's fdatasync, else after the write
  bool allow_uring = true;
  std::int64_t sync_bytes = std::int64_t{64} << 20;
  double sync_interval_s = 1.0;
  std::int64_t piece_bytes = std::int64_t{4} << 20;
  int depth = 8;
};

class DiskTier {
 public:
  // Opens or creates the file, recovers its chunks and starts the thread. `pool` and `tags` outlive
  // the tier. Throws TierFailure (see DiskFile).
  DiskTier(const DiskOptions& options, std::span<std::byte> pool, UnitTags* tags,
           DiskCompletionSink sink, const ScanProgress& progress = {});

  // As `close` with no time to drain.
  ~DiskTier();
  DiskTier(const DiskTier&) = delete;
  DiskTier& operator=(const DiskTier&) = delete;

  void submit(DiskCommand command);

  // Ends: fetches not begun fail at once, spills go on until `drain_s` is over, clears
  // until they are done, what is written is synced, the lock is given back. Idempotent.
  void close(double drain_s);

  const DiskFile& file() const { return *file_; }
  const DiskShape& shape() const { return context_.shape; }
  const char* io_engine() const { return engine_name_; }
  bool has_registered_buffers() const { return has_registered_buffers_; }
  const std::string& io_note() const { return io_note_; }  // why a better engine was passed over

  // What the system said of the last read, write or sync that failed since this was asked before;
  // empty where none did, and once it is closed.
  std::string take_trouble();

  // What the file held when it was opened, and its memory. To be called once at most.
  RecoveredChunks take_recovered() { return std::move(recovered_); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Trouble {
    IoRequest::Op op = IoRequest::Op::kRead;
    int error = 0;  // errno, or 0
  };

  void fill_table();
  void run();
  void take_commands();
  void take_results();
  void keep_promises();
  void note_trouble(IoRequest::Op op, std::int64_t transferred);
  bool wind_down();
  void wait_for_work();
  void wake() const;

  FileDescriptor wakeup_;
  std::unique_ptr<DiskFile> file_;
  RecoveredChunks recovered_;
  DiskTable table_;
  DiskContext context_;
  std::string io_note_;  // before the engine, whose making writes it
  std::unique_ptr<IoEngine> engine_;
  const char* engine_name_ = "";
  bool has_registered_buffers_ = false;
  const int depth_;
  IoWindow reads_;
  IoWindow writes_;
  GroupSync sync_;
  Fetcher fetcher_;
  Spiller spiller_;
  std::vector<IoResult> results_;
  std::atomic<Trouble> trouble_;

  std::mutex mutex_;  // guards the inbox and the two below it
  std::vector<DiskCommand> inbox_;
  bool closing_ = false;
  Clock::time_point drain_until_;
  bool closed_ = false;  // the owner's thread only
  std::jthread thread_;
};

}  // namespace radixkv
