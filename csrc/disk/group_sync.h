// GroupSync decides when what was written is synced, and what a sync covers.
//
//   epoch 1: writes … │ sync begins │ epoch 2: writes … │ sync of 1 ends: epoch 1 is durable │ …
//
// A sync covers what was written before it began; writing goes on meanwhile.
// Thread safety: the disk thread's.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace radixkv {

class GroupSync {
 public:
  using Clock = std::chrono::steady_clock;

  // Syncs once `max_bytes` were written, `max_wait` has passed since the first of them, or writing
  // has paused: a group that does not grow gains nothing by waiting.
  GroupSync(bool enabled, std::int64_t max_bytes, Clock::duration max_wait)
      : enabled_(enabled), max_bytes_(max_bytes), max_wait_(max_wait) {}

  // Counts a write that ended. Gives its epoch.
  std::uint64_t written(std::int64_t num_bytes) {
    unsynced_bytes_ += num_bytes;
    latest_ = Clock::now();
    if (!oldest_) oldest_ = latest_;
    return epoch_;
  }

  bool is_durable(std::uint64_t epoch) const { return !enabled_ || epoch <= durable_epoch_; }

  // When the next sync is due if nothing more is written; none while one is on its way.
  std::optional<Clock::time_point> deadline(bool is_writing) const {
    if (!enabled_ || in_flight_ || !oldest_) return std::nullopt;
    if (unsynced_bytes_ >= max_bytes_) return Clock::time_point::min();
    const Clock::time_point latest_wait = *oldest_ + max_wait_;
    return is_writing ? latest_wait : std::min(latest_wait, latest_ + kPause);
  }

  // REQUIRES: `deadline` gave a value.
  void begin() {
    in_flight_ = true;
    ++epoch_;
    unsynced_bytes_ = 0;
    oldest_.reset();
  }

  // The sync that was begun has ended, well or not; gives the epoch that it settled.
  std::uint64_t end() {
    in_flight_ = false;
    durable_epoch_ = epoch_ - 1;
    return durable_epoch_;
  }

 private:
  static constexpr std::chrono::milliseconds kPause{10};

  const bool enabled_;
  const std::int64_t max_bytes_;
  const Clock::duration max_wait_;
  std::uint64_t epoch_ = 1;
  std::uint64_t durable_epoch_ = 0;
  std::int64_t unsynced_bytes_ = 0;
  std::optional<Clock::time_point> oldest_;  // unsynced write
  Clock::time_point latest_{};
  bool in_flight_ = false;
};

}  // namespace radixkv
