// CompletionQueue holds what has ended until the control plane asks.
//
//   submitted   load 7 … load 9          commands of one kind come out in the order of submission,
//   ended              load 9            however they end; those of remote tiers, where one server
//   polled      (nothing until 7 ends)   may be slow and another quick, as they end
//
// Thread safety: any thread.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "core/completion.h"

namespace radixkv {

// What one kind of command has done so far.
struct KindStats {
  std::int64_t num_queued = 0;    // submitted and not yet ended
  std::int64_t num_commands = 0;  // ended
  std::int64_t num_chunks = 0;    // done
  std::int64_t num_bytes = 0;     // done
  std::int64_t num_failed = 0;    // commands by status
  std::int64_t num_corrupt = 0;
  std::int64_t num_full = 0;
  double recent_bytes_per_s =
      0;  // over the last few commands, while any was on its way; 0 before the first
};

class CompletionQueue {
 public:
  using Clock = std::chrono::steady_clock;

  // The command is on its way. Its completion, when it is there, stays unseen for `delay` more.
  void submitted(CommandKind kind, std::int64_t command_id, Clock::duration delay = {});

  // REQUIRES: was submitted and has not ended.
  void ended(CommandKind kind, const Completion& completion, std::int64_t num_bytes);

  // Takes out at most `max`. Costs one atomic read when there is nothing.
  std::vector<Completion> poll(std::size_t max);

  // Waits until a completion can be polled, `interrupt` was called or the time is over.
  void wait(Clock::duration timeout);

  // Ends all waits, now and from now on.
  void interrupt();

  KindStats stats(CommandKind kind) const;

 private:
  struct Entry {
    std::int64_t command_id;
    Clock::time_point begun;
    Clock::duration delay;
    bool has_ended = false;
    Clock::time_point visible_at{};
    Completion completion{};
  };
  struct Lane {
    std::deque<Entry> entries;  // in order of submission
    KindStats stats;
    Clock::time_point last_end{};
    std::int64_t num_measured = 0;
    double recent_bytes = 0;
    double recent_s = 0;
  };

  void count(Lane* lane, const Entry& entry, std::int64_t num_bytes);
  Clock::time_point release();  // moves what may be seen to `ready_`; when to look again

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Lane, kNumCommandKinds> lanes_;
  std::deque<Completion> ready_;
  std::atomic<std::int64_t> num_ended_{0};  // and not polled
  bool interrupted_ = false;
};

}  // namespace radixkv
