#include "net/remote_lane.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/chunk_key.h"

namespace radixkv {
namespace {

using namespace std::chrono_literals;

constexpr auto kFirstPause = 100ms;
constexpr auto kLastPause = 5s;
constexpr auto kIdleCheck = 1s;
constexpr std::size_t kMaxQueued = 1024;
constexpr std::size_t kPutsTogether = 4;

int make_wake_fd() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  return fd;
}

}  // namespace

RemoteLane::RemoteLane(const RemoteContext* context, const RedisEndpoint* endpoint)
    : context_(*context), endpoint_(*endpoint), wake_fd_(make_wake_fd()), pause_(kFirstPause) {
  thread_ = std::jthread([this] { run(); });
}

void RemoteLane::submit(RemoteCommand command) {
  bool is_taken = false;
  {
    const std::lock_guard lock(mutex_);
    is_taken = health_.is_connected && !is_closing_ && !command.injected_failure &&
               queue_.size() < kMaxQueued;
    if (is_taken) queue_.push_back(std::move(command));
  }
  if (!is_taken) return end(command, 0, CompletionStatus::kFailed);
  changed_.notify_all();
}

void RemoteLane::close(double drain_s) {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    is_closing_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::duration<double>(drain_s),
                      [this] { return queue_.empty() && !is_busy_; });
  }
  static_cast<void>(eventfd_write(wake_fd_, 1));
  thread_.join();
  fail_queue();
  ::close(wake_fd_);
}

RemoteHealth RemoteLane::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

void RemoteLane::run() {
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (is_closing_ && queue_.empty()) return;
    }
    if (store_) {
      serve_next();
    } else {
      keep_asking();
    }
  }
}

bool RemoteLane::connect(std::string* reason) {
  try {
    store_ = std::make_unique<RedisStore>(context_.shape, endpoint_, wake_fd_);
    store_->ping();
    return true;
  } catch (const NetFailure& failure) {
    store_.reset();
    *reason = failure.what();
    return false;
  }
}

void RemoteLane::keep_asking() {
  std::string reason;
  if (connect(&reason)) {
    pause_ = kFirstPause;
    set_health({true, ""});
    return;
  }
  set_health({false, reason});
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, pause_, [this] { return is_closing_; });
  pause_ = std::min<Clock::duration>(2 * pause_, kLastPause);
}

void RemoteLane::serve_next() {
  std::vector<RemoteCommand> commands;
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kIdleCheck, [this] { return is_closing_ || !queue_.empty(); });
    if (queue_.empty()) {
      if (is_closing_) return;
      lock.unlock();
      return check_server();
    }
    commands = take_next();
    is_busy_ = true;
  }
  execute(commands, true);
  const std::lock_guard lock(mutex_);
  is_busy_ = false;
  changed_.notify_all();
}

// The next command; of puts a few, so that the server does not wait between them. Under the lock.
std::vector<RemoteCommand> RemoteLane::take_next() {
  std::vector<RemoteCommand> taken;
  do {
    taken.push_back(std::move(queue_.front()));
    queue_.pop_front();
  } while (taken.back().kind == CommandKind::kPut && taken.size() < kPutsTogether &&
           !queue_.empty() && queue_.front().kind == CommandKind::kPut);
  return taken;
}

void RemoteLane::check_server() {
  try {
    store_->ping();
  } catch (const NetFailure& failure) {
    cut_off(failure.what());
  }
}

void RemoteLane::execute(std::span<const RemoteCommand> commands, bool may_reconnect) {
  try {
    switch (commands.front().kind) {
      case CommandKind::kPut:
        return put(commands);
      case CommandKind::kGet:
        return get(commands.front());
      default:
        return lookup(commands.front());
    }
  } catch (const NetFailure& failure) {
    // A server that was restarted, or that ends idle connections, is there again at once.
    std::string reason = failure.what();
    const bool is_idle_end = failure.kind() == NetFailure::Kind::kClosed && may_reconnect;
    if (is_idle_end && connect(&reason)) return execute(commands, false);
    cut_off(reason);
    for (const RemoteCommand& command : commands) end(command, 0, CompletionStatus::kFailed);
  }
}

// What comes behind an object that the server refused counts as refused, too.
void RemoteLane::put(std::span<const RemoteCommand> commands) {
  std::vector<ChunkObject> objects;
  std::vector<std::size_t> num_held;  // of each command's chunks, those whose bytes are there
  for (const RemoteCommand& command : commands) {
    const auto gone = std::ranges::find_if(
        command.chunks, [this](const ChunkRef& chunk) { return !context_.tags->holds(chunk); });
    num_held.push_back(static_cast<std::size_t>(gone - command.chunks.begin()));
    const std::vector<ChunkObject> held = context_.objects_of(command);
    objects.insert(objects.end(), held.begin(), held.begin() + (gone - command.chunks.begin()));
  }
  const StoreOutcome outcome = store_->put(objects);
  std::size_t num_left = outcome.num_ok;
  for (std::size_t i = 0; i < commands.size(); ++i) {
    const std::size_t num_ok = std::min(num_left, num_held[i]);
    num_left -= num_ok;
    CompletionStatus status = CompletionStatus::kOk;
    if (num_ok < num_held[i]) {
      status = outcome.status;
    } else if (num_ok < commands[i].chunks.size()) {
      status = CompletionStatus::kCorrupt;
    }
    end(commands[i], num_ok, status);
  }
}

void RemoteLane::get(const RemoteCommand& command) {
  for (const ChunkRef& chunk : command.chunks) context_.tags->wipe(chunk);
  const std::vector<ChunkObject> objects = context_.objects_of(command);
  // Only the last of a path may be less than a full chunk: it is the front of one, or a tail.
  const bool ends_short = objects.back().tokens.size() < context_.shape.chunk_tokens;
  const std::size_t num_full = objects.size() - (ends_short ? 1 : 0);
  StoreOutcome outcome = store_->get(std::span(objects).first(num_full));
  if (ends_short && outcome.num_ok == num_full) {
    outcome.status = store_->get_front(objects.back());
    if (outcome.status == CompletionStatus::kOk) ++outcome.num_ok;
  }
  for (const ChunkRef& chunk : std::span(command.chunks).first(outcome.num_ok)) {
    context_.hold(chunk);
  }
  end(command, outcome.num_ok, outcome.status);
}

void RemoteLane::lookup(const RemoteCommand& command) {
  const std::size_t num_tokens = store_->lookup(command.parent_key, command.tokens);
  end(command, num_tokens, CompletionStatus::kOk);
}

void RemoteLane::end(const RemoteCommand& command, std::size_t num_ok,
                     CompletionStatus status) const {
  std::int64_t num_bytes = 0;
  if (command.kind != CommandKind::kLookup) {
    for (std::size_t i = 0; i < num_ok; ++i)
      num_bytes += std::ssize(context_.payload(command.chunks[i]));
  }
  context_.sink(command.kind, {command.id, static_cast<std::int32_t>(num_ok), status}, num_bytes);
}

void RemoteLane::set_health(const RemoteHealth& health) {
  const std::lock_guard lock(mutex_);
  if (health_ == health) return;
  health_ = health;
  num_changes_.fetch_add(1, std::memory_order_relaxed);
}

void RemoteLane::cut_off(const std::string& reason) {
  store_.reset();
  set_health({false, reason});
  fail_queue();
}

void RemoteLane::fail_queue() {
  std::deque<RemoteCommand> failed;
  {
    const std::lock_guard lock(mutex_);
    failed.swap(queue_);
  }
  for (const RemoteCommand& command : failed) end(command, 0, CompletionStatus::kFailed);
}

}  // namespace radixkv
