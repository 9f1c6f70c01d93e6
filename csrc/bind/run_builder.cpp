#include "bind/run_builder.h"

#include <chrono>

#include "bind/shared_index.h"
#include "index/run_finder.h"

namespace radixkv::bind {

namespace {

constexpr std::chrono::milliseconds kPause{20};

}  // namespace

RunBuilder::RunBuilder(const SharedIndex& index) : index_(index), thread_([this] { run(); }) {}

RunBuilder::~RunBuilder() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  wanted_.notify_one();
  thread_.join();
}

bool RunBuilder::build_some() const {
  return index_.read([](const RadixIndex& native) { return native.runs()->build(); });
}

void RunBuilder::run() {
  std::unique_lock lock(mutex_);
  while (!stops_) {
    is_wanted_ = false;
    lock.unlock();
    while (build_some()) {
      while (index_.is_wanted()) std::this_thread::yield();
      const std::lock_guard stop_lock(mutex_);
      if (stops_) break;
    }
    lock.lock();
    done_.notify_all();
    wanted_.wait_for(lock, kPause, [this] { return stops_ || is_wanted_; });
  }
}

bool RunBuilder::wait(double timeout_s) {
  const auto is_done = [this] {
    return index_.read(
        [](const RadixIndex& native) { return native.runs()->stats().num_waiting == 0; });
  };
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  std::unique_lock lock(mutex_);
  while (!is_done()) {
    is_wanted_ = true;
    wanted_.notify_one();
    const auto until = std::chrono::time_point_cast<std::chrono::steady_clock::duration>(end);
    if (done_.wait_until(lock, until) == std::cv_status::timeout) return is_done();
  }
  return true;
}

SharedIndex::SharedIndex(const IndexConfig& config) : index_(config) {}

SharedIndex::~SharedIndex() = default;

void SharedIndex::index_runs(std::uint32_t min_length) {
  write([&](RadixIndex& native) {
    native.index_runs(min_length);
    if (!builder_) builder_.reset(new RunBuilder(*this));
  });
}

bool SharedIndex::wait_for_runs(double timeout_s) const {
  RunBuilder* builder = read([this](const RadixIndex&) { return builder_.get(); });
  return builder != nullptr && builder->wait(timeout_s);
}

}  // namespace radixkv::bind
