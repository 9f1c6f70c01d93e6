// The engine of choice: one io_uring, with the memory pool registered so that no request pins pages
// of its own.
#include <cerrno>
#include <system_error>

#include "disk/io_engine.h"

#ifdef RADIXKV_HAVE_URING

#include <liburing.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace radixkv {
namespace {

constexpr std::size_t kMaxRegisteredBytes = std::size_t{1}
                                            << 30;  // the kernel's limit for one buffer
constexpr std::chrono::milliseconds kRetryPause(1);

void check(int result, const char* what) {
  if (result < 0) throw std::system_error(-result, std::generic_category(), what);
}

class UringEngine final : public IoEngine {
 public:
  UringEngine(const IoEngineOptions& options, bool register_buffers)
      : fd_(options.fd), wakeup_fd_(options.wakeup_fd), registered_(options.registered) {
    const auto entries = static_cast<unsigned>(options.max_in_flight);
    check(io_uring_queue_init(entries, &ring_, 0), "io_uring_setup");
    const int eventfd_result = io_uring_register_eventfd(&ring_, options.wakeup_fd);
    const int buffers_result = register_buffers ? register_pool() : 0;
    if (eventfd_result < 0 || buffers_result < 0) {
      io_uring_queue_exit(&ring_);
      check(eventfd_result, "io_uring_register(eventfd)");
      check(buffers_result, "io_uring_register(buffers)");
    }
    has_registered_buffers_ = register_buffers;
  }

  ~UringEngine() override {
    while (in_flight_ > 0) {
      io_uring_cqe* done = nullptr;
      const int result = io_uring_wait_cqe(&ring_, &done);
      if (result == -EINTR) continue;
      if (result < 0) break;
      io_uring_cqe_seen(&ring_, done);
      --in_flight_;
    }
    io_uring_queue_exit(&ring_);
  }

  void submit(const IoRequest& request) override {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    const auto length = static_cast<unsigned>(request.num_bytes);
    const auto offset = static_cast<std::uint64_t>(request.file_offset);
    const int buffer = request.op == IoRequest::Op::kSync ? -1 : buffer_index(request);
    switch (request.op) {
      case IoRequest::Op::kRead:
        if (buffer >= 0) {
          io_uring_prep_read_fixed(entry, fd_, request.data, length, offset, buffer);
        } else {
          io_uring_prep_read(entry, fd_, request.data, length, offset);
        }
        break;
      case IoRequest::Op::kWrite:
        if (buffer >= 0) {
          io_uring_prep_write_fixed(entry, fd_, request.data, length, offset, buffer);
        } else {
          io_uring_prep_write(entry, fd_, request.data, length, offset);
        }
        break;
      case IoRequest::Op::kSync:
        io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC);
        break;
    }
    io_uring_sqe_set_data64(entry, request.tag);
    ++in_flight_;
    flush();
  }

  void reap(std::vector<IoResult>* results) override {
    if (io_uring_sq_ready(&ring_) > 0) flush();
    io_uring_cqe* done = nullptr;
    while (io_uring_peek_cqe(&ring_, &done) == 0) {
      results->push_back({io_uring_cqe_get_data64(done), done->res});
      io_uring_cqe_seen(&ring_, done);
      --in_flight_;
    }
  }

  const char* name() const override { return "io_uring"; }
  bool has_registered_buffers() const override { return has_registered_buffers_; }

 private:
  // A kernel that is short of memory takes nothing; then the owner is woken to reap, which tries
  // again.
  void flush() {
    if (io_uring_submit(&ring_) >= 0) return;
    std::this_thread::sleep_for(kRetryPause);
    eventfd_write(wakeup_fd_, 1);
  }

  int register_pool() {
    std::vector<iovec> buffers;
    for (std::size_t at = 0; at < registered_.size(); at += kMaxRegisteredBytes) {
      const std::size_t length = std::min(kMaxRegisteredBytes, registered_.size() - at);
      buffers.push_back({registered_.data() + at, length});
    }
    return io_uring_register_buffers(&ring_, buffers.data(), static_cast<unsigned>(buffers.size()));
  }

  // The registered buffer that the whole request lies in, or -1.
  int buffer_index(const IoRequest& request) const {
    if (!has_registered_buffers_ || request.data < registered_.data()) return -1;
    const auto begin = static_cast<std::size_t>(request.data - registered_.data());
    const std::size_t last = begin + static_cast<std::size_t>(request.num_bytes) - 1;
    if (last >= registered_.size()) return -1;
    if (begin / kMaxRegisteredBytes != last / kMaxRegisteredBytes) return -1;
    return static_cast<int>(begin / kMaxRegisteredBytes);
  }

  const int fd_;
  const int wakeup_fd_;
  const std::span<std::byte> registered_;
  io_uring ring_{};
  int in_flight_ = 0;
  bool has_registered_buffers_ = false;
};

}  // namespace

std::unique_ptr<IoEngine> make_uring_engine(const IoEngineOptions& options, bool register_buffers) {
  return std::make_unique<UringEngine>(options, register_buffers);
}

}  // namespace radixkv

#else

namespace radixkv {

std::unique_ptr<IoEngine> make_uring_engine(const IoEngineOptions&, bool) {
  throw std::system_error(ENOSYS, std::generic_category(), "built without liburing");
}

}  // namespace radixkv

#endif
