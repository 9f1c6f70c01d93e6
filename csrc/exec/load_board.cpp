#include "exec/load_board.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace radixkv {
namespace {

constexpr std::size_t kMaxEnded = 4096;

}  // namespace

void LoadBoard::begin(std::int64_t command_id) {
  const std::lock_guard lock(mutex_);
  loads_[command_id] = {};
}

void LoadBoard::advance(std::int64_t command_id, std::int64_t layers_done) {
  {
    const std::lock_guard lock(mutex_);
    // Two threads may report two layers the other way round.
    std::int64_t& known = loads_[command_id].layers_done;
    known = std::max(known, layers_done);
  }
  changed_.notify_all();
}

void LoadBoard::fail(std::int64_t command_id) {
  {
    const std::lock_guard lock(mutex_);
    loads_[command_id].failed = true;
  }
  changed_.notify_all();
}

void LoadBoard::end(std::int64_t command_id) {
  const std::lock_guard lock(mutex_);
  ended_.push_back(command_id);
  if (ended_.size() > kMaxEnded) {
    loads_.erase(ended_.front());
    ended_.pop_front();
  }
}

std::int64_t LoadBoard::layers_done(std::int64_t command_id) const {
  const std::lock_guard lock(mutex_);
  return find(command_id).layers_done;
}

bool LoadBoard::wait(std::int64_t command_id, std::int64_t layer,
                     std::chrono::duration<double> timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [&] {
    const Progress& progress = find(command_id);
    return progress.failed || progress.layers_done > layer;
  });
  const Progress& progress = find(command_id);
  return !progress.failed && progress.layers_done > layer;
}

const LoadBoard::Progress& LoadBoard::find(std::int64_t command_id) const {
  const auto found = loads_.find(command_id);
  if (found == loads_.end()) {
    throw std::invalid_argument("command_id: no load " + std::to_string(command_id) +
                                " was submitted lately");
  }
  return found->second;
}

}  // namespace radixkv
