// The engine that works everywhere: a few threads, each in one blocking preadv or pwritev at a
// time.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "disk/io_engine.h"

namespace radixkv {
namespace {

std::int64_t run_request(int fd, const IoRequest& request) {
  iovec range{request.data, static_cast<std::size_t>(request.num_bytes)};
  ssize_t result = -1;
  do {
    switch (request.op) {
      case IoRequest::Op::kRead:
        result = preadv(fd, &range, 1, request.file_offset);
        break;
      case IoRequest::Op::kWrite:
        result = pwritev(fd, &range, 1, request.file_offset);
        break;
      case IoRequest::Op::kSync:
        result = fdatasync(fd);
        break;
    }
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

class ThreadEngine final : public IoEngine {
 public:
  explicit ThreadEngine(const IoEngineOptions& options)
      : fd_(options.fd), wakeup_fd_(options.wakeup_fd) {
    for (int i = 0; i < options.num_threads; ++i) threads_.emplace_back([this] { work(); });
  }

  ~ThreadEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    waiting_.notify_all();
  }

  void submit(const IoRequest& request) override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    waiting_.notify_one();
  }

  void reap(std::vector<IoResult>* results) override {
    const std::lock_guard lock(mutex_);
    results->insert(results->end(), results_.begin(), results_.end());
    results_.clear();
  }

  const char* name() const override { return "threads"; }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      waiting_.wait(lock, [this] { return stopping_ || !requests_.empty(); });
      if (requests_.empty()) return;
      const IoRequest request = requests_.front();
      requests_.pop_front();
      lock.unlock();
      const std::int64_t transferred = run_request(fd_, request);
      lock.lock();
      results_.push_back({request.tag, transferred});
      eventfd_write(wakeup_fd_, 1);
    }
  }

  const int fd_;
  const int wakeup_fd_;
  std::mutex mutex_;
  std::condition_variable waiting_;
  std::deque<IoRequest> requests_;
  std::vector<IoResult> results_;
  bool stopping_ = false;
  std::vector<std::jthread> threads_;  // last: joined before the rest goes
};

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options) {
  return std::make_unique<ThreadEngine>(options);
}

}  // namespace radixkv
