#include "exec/copy_threads.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace radixkv {

CopyThreads::CopyThreads(int num_threads, Sink sink) : sink_(std::move(sink)) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
}

CopyThreads::~CopyThreads() { close(0); }

void CopyThreads::submit(std::unique_ptr<CopyJob> job) {
  auto queued = std::make_shared<Queued>();
  queued->job = std::move(job);
  {
    const std::lock_guard lock(mutex_);
    queue_of(*queued->job).push_back(std::move(queued));
    ++num_unfinished_;
  }
  work_there_.notify_one();
}

void CopyThreads::close(double drain_s) {
  std::unique_lock lock(mutex_);
  all_done_.wait_for(lock, std::chrono::duration<double>(drain_s),
                     [this] { return num_unfinished_ == 0; });
  reject_new_jobs();
  all_done_.wait(lock, [this] { return num_unfinished_ == 0; });
  stopping_ = true;
  work_there_.notify_all();
  lock.unlock();
  threads_.clear();
}

void CopyThreads::reject_new_jobs() {
  for (Queue* queue : {&loads_, &stores_}) {
    for (const auto& queued : *queue) {
      if (queued->state != Queued::State::kNew) continue;
      queued->job->reject();
      sink_(*queued->job);
      --num_unfinished_;
    }
    std::erase_if(*queue, [](const auto& queued) { return queued->state == Queued::State::kNew; });
  }
}

void CopyThreads::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const std::shared_ptr<Queued> queued = find_work();
    if (queued == nullptr) {
      if (stopping_) return;
      work_there_.wait(lock);
    } else if (queued->state == Queued::State::kNew) {
      plan(queued, &lock);
    } else {
      run_next_item(queued, &lock);
    }
  }
}

// The first job of the more urgent queue that is not just being planned by somebody else.
std::shared_ptr<CopyThreads::Queued> CopyThreads::find_work() {
  for (const Queue* queue : {&loads_, &stores_}) {
    const auto found = std::find_if(queue->begin(), queue->end(), [](const auto& queued) {
      return queued->state != Queued::State::kPlanning;
    });
    if (found != queue->end()) return *found;
  }
  return nullptr;
}

void CopyThreads::plan(const std::shared_ptr<Queued>& queued, std::unique_lock<std::mutex>* lock) {
  queued->state = Queued::State::kPlanning;
  lock->unlock();
  const std::int64_t num_items = queued->job->plan();
  lock->lock();
  queued->num_items = num_items;
  queued->state = Queued::State::kPlanned;
  if (num_items > 0) {
    lock->unlock();  // whoever is woken may take the CPU at once: not with the lock held
    work_there_.notify_all();
    lock->lock();
    return;
  }
  std::erase(queue_of(*queued->job), queued);
  end(queued, lock);
}

void CopyThreads::run_next_item(const std::shared_ptr<Queued>& queued,
                                std::unique_lock<std::mutex>* lock) {
  const std::int64_t item = queued->next_item++;
  if (queued->next_item == queued->num_items) std::erase(queue_of(*queued->job), queued);
  lock->unlock();
  const bool was_last = queued->job->run_item(item);
  lock->lock();
  if (was_last) end(queued, lock);
}

void CopyThreads::end(const std::shared_ptr<Queued>& queued, std::unique_lock<std::mutex>* lock) {
  lock->unlock();
  sink_(*queued->job);
  queued->job.reset();
  lock->lock();
  if (--num_unfinished_ == 0) all_done_.notify_all();
}

CopyThreads::Queue& CopyThreads::queue_of(const CopyJob& job) {
  return job.kind() == CommandKind::kLoad ? loads_ : stores_;
}

}  // namespace radixkv
