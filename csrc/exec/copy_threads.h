// CopyThreads runs loads and stores, loads first, on a few threads of its own.
//
//   loads   [ job | job ]  ─┐  a free thread takes the next item of the first load that has one,
//   stores  [ job | job ]  ─┴▶ else of the first store: a load overtakes a store between its chunks
//
// The lock is held for moments only, and while nobody is woken: `submit` may have to wait for it.
// Thread safety: any thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "exec/copy_job.h"

namespace radixkv {

class CopyThreads {
 public:
  // Called once a job has ended, on a copy thread or in `close`; must not block.
  using Sink = std::function<void(const CopyJob& job)>;

  CopyThreads(int num_threads, Sink sink);
  ~CopyThreads();

  void submit(std::unique_ptr<CopyJob> job);

  // Goes on until all is done or `drain_s` is over; jobs that are not begun then end with nothing
  // done. Idempotent.
  void close(double drain_s);

 private:
  struct Queued {
    enum class State { kNew, kPlanning, kPlanned };
    std::unique_ptr<CopyJob> job;
    State state = State::kNew;
    std::int64_t next_item = 0;
    std::int64_t num_items = 0;
  };
  using Queue = std::deque<std::shared_ptr<Queued>>;  // jobs with items not handed out

  void work();
  std::shared_ptr<Queued> find_work();
  void plan(const std::shared_ptr<Queued>& queued, std::unique_lock<std::mutex>* lock);
  void run_next_item(const std::shared_ptr<Queued>& queued, std::unique_lock<std::mutex>* lock);
  void end(const std::shared_ptr<Queued>& queued, std::unique_lock<std::mutex>* lock);
  void reject_new_jobs();
  Queue& queue_of(const CopyJob& job);

  const Sink sink_;
  std::mutex mutex_;
  std::condition_variable work_there_;
  std::condition_variable all_done_;
  Queue loads_;
  Queue stores_;
  std::int64_t num_unfinished_ = 0;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace radixkv
