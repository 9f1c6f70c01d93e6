#include "disk/disk_tier.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/tier_failure.h"

namespace radixkv {
namespace {

constexpr std::uint64_t kReadTags = 0;
constexpr std::uint64_t kWriteTags = std::uint64_t{1} << 48;
constexpr std::uint64_t kSyncTag = std::uint64_t{2} << 48;
constexpr int kWriteDepthBesideReads = 2;

std::unique_ptr<DiskFile> open_file(const DiskOptions& options) {
  return std::make_unique<DiskFile>(options.folder, options.shape, options.group_id);
}

std::unique_ptr<IoEngine> open_engine(const DiskOptions& options, int fd, int wakeup_fd,
                                      std::span<std::byte> pool, std::string* note) {
  IoEngineOptions engine;
  engine.fd = fd;
  engine.wakeup_fd = wakeup_fd;
  engine.registered = pool;
  engine.max_in_flight = 2 * options.depth + 1;  // both windows and a sync
  engine.num_threads = options.depth;
  try {
    return make_io_engine(engine, options.allow_uring, note);
  } catch (const std::system_error& error) {
    throw TierFailure(TierFailure::Kind::kOther, "disk", "open", error.what());
  }
}

const char* name_of(IoRequest::Op op) {
  switch (op) {
    case IoRequest::Op::kRead:
      return "reading";
    case IoRequest::Op::kWrite:
      return "writing";
    case IoRequest::Op::kSync:
      return "syncing";
  }
  return "";
}

std::chrono::steady_clock::duration seconds(double value) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(value));
}

}  // namespace

DiskTier::DiskTier(const DiskOptions& options, std::span<std::byte> pool, UnitTags* tags,
                   DiskCompletionSink sink, const ScanProgress& progress)
    : wakeup_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      file_(open_file(options)),
      recovered_(
          recover(file_->fd(), file_->found_bytes(), options.shape, file_->group_id(), progress)),
      table_(options.shape.capacity_units, options.shape.num_headers()),
      context_{options.shape, options.token_bytes, file_.get(),    &table_,
               tags,          pool.data(),         std::move(sink)},
      engine_(open_engine(options, file_->fd(), wakeup_.get(), pool, &io_note_)),
      engine_name_(engine_->name()),
      has_registered_buffers_(engine_->has_registered_buffers()),
      depth_(options.depth),
      reads_(engine_.get(), IoRequest::Op::kRead, options.piece_bytes, kReadTags),
      writes_(engine_.get(), IoRequest::Op::kWrite, options.piece_bytes, kWriteTags),
      sync_(options.group_durable, options.sync_bytes, seconds(options.sync_interval_s)),
      fetcher_(&context_, &reads_),
      spiller_(&context_, &writes_, &sync_) {
  reads_.set_depth(depth_);
  std::memset(pool.data(), 0, kBlockBytes);  // the probe read a block into it
  fill_table();
  thread_ = std::jthread([this] { run(); });
}

DiskTier::~DiskTier() { close(0); }

// Headers that did not count are cleared, lest one of them counts again after the next restart.
void DiskTier::fill_table() {
  alignas(kBlockBytes) static const std::byte zeros[kBlockBytes] = {};
  for (const std::uint32_t slot : recovered_.dropped_slots) {
    const std::int64_t offset = context_.shape.header_offset(slot);
    if (pwrite(file_->fd(), zeros, kBlockBytes, offset) != kBlockBytes) {
      throw TierFailure(TierFailure::Kind::kOther, "disk", "open",
                        std::string("clearing a header failed (") + std::strerror(errno) + ")");
    }
  }
  recovered_.scan.for_each([this](const RecoveredChunk& chunk) {
    if (chunk.index >= 0) table_.restore(chunk.slot, chunk.entry);
  });
}

void DiskTier::submit(DiskCommand command) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(command));
  }
  wake();
}

void DiskTier::close(double drain_s) {
  if (closed_) return;
  closed_ = true;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    drain_until_ = Clock::now() + seconds(drain_s);
  }
  wake();
  if (thread_.joinable()) thread_.join();
  engine_.reset();
  fdatasync(file_->fd());  // for `none`, which promised nothing: the last that can be done for it
  file_.reset();
}

void DiskTier::wake() const { eventfd_write(wakeup_.get(), 1); }

void DiskTier::run() {
  do {
    take_commands();
    take_results();
    fetcher_.pump();
    writes_.set_depth(reads_.idle() ? depth_ : std::min(depth_, kWriteDepthBesideReads));
    spiller_.pump();
    keep_promises();
    if (wind_down()) return;
    wait_for_work();
  } while (true);
}

void DiskTier::take_commands() {
  std::vector<DiskCommand> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(inbox_);
  }
  for (DiskCommand& command : commands) {
    if (command.kind == CommandKind::kFetch) {
      fetcher_.add(std::move(command));
    } else {
      spiller_.add(std::move(command));
    }
  }
}

void DiskTier::take_results() {
  results_.clear();
  engine_->reap(&results_);
  for (const IoResult& result : results_) {
    if (result.tag >= kSyncTag) {
      const std::uint64_t epoch = sync_.end();
      note_trouble(IoRequest::Op::kSync, result.transferred);
      spiller_.on_synced(epoch, result.transferred < 0 ? static_cast<int>(-result.transferred) : 0);
    } else if (result.tag >= kWriteTags) {
      note_trouble(IoRequest::Op::kWrite, result.transferred);
      writes_.on_result(result);
    } else {
      note_trouble(IoRequest::Op::kRead, result.transferred);
      reads_.on_result(result);
    }
  }
}

void DiskTier::note_trouble(IoRequest::Op op, std::int64_t transferred) {
  if (transferred >= 0 || transferred == -EINTR || transferred == -EAGAIN) return;
  trouble_.store({op, static_cast<int>(-transferred)});
}

std::string DiskTier::take_trouble() {
  if (closed_) return "";
  const Trouble trouble = trouble_.exchange({});
  if (!file_->is_whole()) return "the file was removed or cut short";
  if (trouble.error == 0) return "";
  return std::string(name_of(trouble.op)) + " failed (" + std::strerror(trouble.error) + ")";
}

// Begins a sync when one is due; at the end there is no reason to wait for more.
void DiskTier::keep_promises() {
  const auto due = sync_.deadline(!writes_.idle());
  if (!due) return;
  bool closing = false;
  {
    const std::lock_guard lock(mutex_);
    closing = closing_;
  }
  if (*due > Clock::now() && !(closing && writes_.idle())) return;
  sync_.begin();
  engine_->submit({IoRequest::Op::kSync, nullptr, 0, 0, kSyncTag});
}

// True when the thread may end: it was asked to, and nothing is on its way.
bool DiskTier::wind_down() {
  {
    const std::lock_guard lock(mutex_);
    if (!closing_ || !inbox_.empty()) return false;
    fetcher_.abandon();
    if (Clock::now() >= drain_until_) spiller_.abandon();
  }
  fetcher_.pump();
  spiller_.pump();
  return fetcher_.idle() && spiller_.idle();
}

void DiskTier::wait_for_work() {
  Clock::time_point until = Clock::time_point::max();
  if (const auto due = sync_.deadline(!writes_.idle())) until = *due;
  {
    const std::lock_guard lock(mutex_);
    if (closing_) until = std::min(until, std::max(drain_until_, Clock::now() + seconds(0.01)));
  }
  int timeout_ms = -1;
  if (until != Clock::time_point::max()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(std::max(until, Clock::now()) - Clock::now());
    timeout_ms = static_cast<int>(std::min<std::int64_t>(left.count(), 60'000));
  }
  pollfd wakeup{wakeup_.get(), POLLIN, 0};
  if (poll(&wakeup, 1, timeout_ms) > 0) {
    eventfd_t count = 0;
    eventfd_read(wakeup_.get(), &count);
  }
}

}  // namespace radixkv
