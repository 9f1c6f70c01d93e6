#include "exec/completion_queue.h"

#include <algorithm>

namespace radixkv {
namespace {

// How much of the past counts in the recent rate: about the last five commands.
constexpr double kDecay = 0.8;

// A command that takes longer for its bytes than the last few did counts as so much slower at most,
// and as one of so many bytes: of fewer the time is mostly that of asking.
constexpr double kMostSlower = 4;
constexpr double kFewBytes = 256 << 10;

bool is_remote(std::size_t kind) { return kind >= static_cast<std::size_t>(CommandKind::kPut); }

}  // namespace

void CompletionQueue::submitted(CommandKind kind, std::int64_t command_id, Clock::duration delay) {
  const std::lock_guard lock(mutex_);
  Lane& lane = lanes_[static_cast<std::size_t>(kind)];
  lane.entries.push_back({command_id, Clock::now(), delay});
  ++lane.stats.num_queued;
}

void CompletionQueue::ended(CommandKind kind, const Completion& completion,
                            std::int64_t num_bytes) {
  {
    const std::lock_guard lock(mutex_);
    Lane& lane = lanes_[static_cast<std::size_t>(kind)];
    const auto entry =
        std::find_if(lane.entries.begin(), lane.entries.end(), [&](const Entry& candidate) {
          return candidate.command_id == completion.command_id && !candidate.has_ended;
        });
    entry->has_ended = true;
    entry->completion = completion;
    entry->visible_at = Clock::now() + entry->delay;
    count(&lane, *entry, num_bytes);
    num_ended_.fetch_add(1, std::memory_order_release);
  }
  // Who is woken may take this CPU at once, and must not find the lock held by who then waits for
  // one: that would be long on a busy machine.
  changed_.notify_all();
}

void CompletionQueue::count(Lane* lane, const Entry& entry, std::int64_t num_bytes) {
  KindStats& stats = lane->stats;
  --stats.num_queued;
  ++stats.num_commands;
  stats.num_chunks += entry.completion.num_ok;
  stats.num_bytes += num_bytes;
  if (entry.completion.status == CompletionStatus::kFailed) ++stats.num_failed;
  if (entry.completion.status == CompletionStatus::kCorrupt) ++stats.num_corrupt;
  if (entry.completion.status == CompletionStatus::kFull) ++stats.num_full;
  const Clock::time_point now = Clock::now();
  if (num_bytes > 0) {
    // Commands overlap: time that an earlier one of the kind has taken is not counted again.
    const std::chrono::duration<double> taken = now - std::max(entry.begun, lane->last_end);
    auto bytes = static_cast<double>(num_bytes);
    double taken_s = taken.count();
    // One moment in which a few bytes had to wait is not the tier's rate, and what is thought slow
    // is hardly used, and so measured, any more. One that stays slow is believed after a few more.
    if (const double rate = stats.recent_bytes_per_s; rate > 0) {
      taken_s = std::min(taken_s, kMostSlower * bytes / rate);
      bytes = std::max(bytes, std::min(rate * taken_s, kFewBytes));
    }
    // With the first a connection may have been set up: it is believed until there is a second.
    if (++lane->num_measured == 2) lane->recent_bytes = lane->recent_s = 0;
    lane->recent_bytes = kDecay * lane->recent_bytes + bytes;
    lane->recent_s = kDecay * lane->recent_s + taken_s;
    if (lane->recent_s > 0) stats.recent_bytes_per_s = lane->recent_bytes / lane->recent_s;
  }
  lane->last_end = now;
}

CompletionQueue::Clock::time_point CompletionQueue::release() {
  const Clock::time_point now = Clock::now();
  Clock::time_point next = Clock::time_point::max();
  for (std::size_t kind = 0; kind < lanes_.size(); ++kind) {
    std::deque<Entry>& entries = lanes_[kind].entries;
    for (auto entry = entries.begin(); entry != entries.end();) {
      if (entry->has_ended && entry->visible_at <= now) {
        ready_.push_back(entry->completion);
        entry = entries.erase(entry);
        continue;
      }
      if (entry->has_ended) next = std::min(next, entry->visible_at);
      if (!is_remote(kind)) break;
      ++entry;
    }
  }
  return next;
}

std::vector<Completion> CompletionQueue::poll(std::size_t max) {
  std::vector<Completion> completions;
  if (num_ended_.load(std::memory_order_acquire) == 0) return completions;
  const std::lock_guard lock(mutex_);
  release();
  const auto end = ready_.begin() + static_cast<std::ptrdiff_t>(std::min(max, ready_.size()));
  completions.assign(ready_.begin(), end);
  ready_.erase(ready_.begin(), end);
  num_ended_.fetch_sub(static_cast<std::int64_t>(completions.size()), std::memory_order_relaxed);
  return completions;
}

void CompletionQueue::wait(Clock::duration timeout) {
  const Clock::time_point until = Clock::now() + timeout;
  std::unique_lock lock(mutex_);
  for (;;) {
    const Clock::time_point next = release();
    if (!ready_.empty() || interrupted_ || Clock::now() >= until) return;
    changed_.wait_until(lock, std::min(until, next));
  }
}

void CompletionQueue::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  changed_.notify_all();
}

KindStats CompletionQueue::stats(CommandKind kind) const {
  const std::lock_guard lock(mutex_);
  return lanes_[static_cast<std::size_t>(kind)].stats;
}

}  // namespace radixkv
