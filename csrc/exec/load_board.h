// LoadBoard says how far each load is, layer by layer: a forward pass may start right behind it.
//
//   load 7:  layers_done 3 of 32     wait(7, 2) is over at once, wait(7, 3) blocks
//
// Loads that ended are remembered for a while: who asks late still gets an answer.
// Thread safety: any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <unordered_map>

namespace radixkv {

class LoadBoard {
 public:
  void begin(std::int64_t command_id);
  // Layers 0 … layers_done - 1 of all the load's tokens are in the engine's memory.
  void advance(std::int64_t command_id, std::int64_t layers_done);
  // Some of its tokens will never come.
  void fail(std::int64_t command_id);
  // No more news of this load. Sooner or later it is forgotten.
  void end(std::int64_t command_id);

  // Throws std::invalid_argument for a load that never began or is forgotten.
  std::int64_t layers_done(std::int64_t command_id) const;

  // True once the layer is there; false if the load failed or the time is over first. Throws as
  // above.
  bool wait(std::int64_t command_id, std::int64_t layer, std::chrono::duration<double> timeout);

 private:
  struct Progress {
    std::int64_t layers_done = 0;
    bool failed = false;
  };

  const Progress& find(std::int64_t command_id) const;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<std::int64_t, Progress> loads_;
  std::deque<std::int64_t> ended_;  // oldest first
};

}  // namespace radixkv
