// RunBuilder is the thread that files what a RunFinder waits for.
//
// It looks every 20 ms, works in slices of well below a millisecond, and holds the index's lock for
// reading meanwhile: matches run beside it, a change waits for a slice at most. It knows no Python.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace radixkv::bind {

class SharedIndex;

class RunBuilder {
 public:
  // `index` outlives it.
  explicit RunBuilder(const SharedIndex& index);
  ~RunBuilder();

  // Waits until nothing waits to be filed; false where that takes longer.
  bool wait(double timeout_s);

 private:
  void run();
  bool build_some() const;

  const SharedIndex& index_;
  std::mutex mutex_;
  std::condition_variable wanted_;  // somebody waits, or it is to stop
  std::condition_variable done_;
  bool stops_ = false;
  bool is_wanted_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace radixkv::bind
