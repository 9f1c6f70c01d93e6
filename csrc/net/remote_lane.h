// RemoteLane carries out commands on a remote server, one after the other (of puts that queue a few
// as one), on a connection and a thread of its own.
//
//            connected ──── a call fails ────▶ cut off: commands fail at once
//                ▲                                 │ after a pause, longer each time
//                └──────── the server answers ◀────┘ (the thread asks, no command waits for it)
//
// A lane begins cut off. While it has nothing to do it asks now and then whether the server is
// there. Thread safety: any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "net/redis_store.h"
#include "net/remote_command.h"

namespace radixkv {

// Whether a server serves, or why not.
struct RemoteHealth {
  bool is_connected = false;
  std::string reason = "not asked yet";

  bool operator==(const RemoteHealth&) const = default;
};

class RemoteLane {
 public:
  // Both outlive the lane.
  RemoteLane(const RemoteContext* context, const RedisEndpoint* endpoint);
  ~RemoteLane() { close(0); }
  RemoteLane(const RemoteLane&) = delete;
  RemoteLane& operator=(const RemoteLane&) = delete;

  // Never waits. The command may end at once.
  void submit(RemoteCommand command);

  // Goes on with what is queued until `drain_s` is over; the rest fails. Idempotent.
  void close(double drain_s);

  RemoteHealth health() const;

  // Grows whenever the health changes.
  std::int64_t num_changes() const { return num_changes_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  void run();
  bool connect(std::string* reason);
  void keep_asking();
  void serve_next();
  void check_server();
  std::vector<RemoteCommand> take_next();
  void execute(std::span<const RemoteCommand> commands, bool may_reconnect);
  void put(std::span<const RemoteCommand> commands);
  void get(const RemoteCommand& command);
  void lookup(const RemoteCommand& command);
  void end(const RemoteCommand& command, std::size_t num_ok, CompletionStatus status) const;
  void set_health(const RemoteHealth& health);
  void cut_off(const std::string& reason);
  void fail_queue();

  const RemoteContext& context_;
  const RedisEndpoint& endpoint_;
  const int wake_fd_;
  std::unique_ptr<RedisStore> store_;  // the thread's
  Clock::duration pause_;              // the thread's

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<RemoteCommand> queue_;
  RemoteHealth health_;
  bool is_busy_ = false;  // a command was taken and has not ended
  bool is_closing_ = false;
  std::atomic<std::int64_t> num_changes_{0};
  std::jthread thread_;
};

}  // namespace radixkv
