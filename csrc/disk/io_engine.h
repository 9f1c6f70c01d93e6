// IoEngine moves bytes between memory and one open file without making its caller wait.
//
//   submit ─▶ io_uring, or threads with preadv/pwritev ─▶ an eventfd becomes readable ─▶ reap
//
// Which one is chosen at start by really reading through it (`make_io_engine`), since containers
// often forbid io_uring where the kernel has it.
//
// Thread safety: `submit` and `reap` belong to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace radixkv {

struct IoRequest {
  enum class Op : std::uint8_t { kRead, kWrite, kSync };  // kSync: fdatasync, the range is ignored

  Op op = Op::kRead;
  std::byte* data = nullptr;  // must stay until the result is reaped
  std::int64_t num_bytes = 0;
  std::int64_t file_offset = 0;
  std::uint64_t tag = 0;  // comes back in the result
};

struct IoResult {
  std::uint64_t tag = 0;
  std::int64_t transferred = 0;  // bytes, possibly fewer than asked for, or -errno
};

class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // REQUIRES: no more than `max_in_flight` (of its maker) requests are submitted and not yet
  // reaped.
  virtual void submit(const IoRequest& request) = 0;

  // Appends the results that are there; does not wait.
  virtual void reap(std::vector<IoResult>* results) = 0;

  // "io_uring" or "threads".
  virtual const char* name() const = 0;

  // The memory pool is registered with the kernel, which then need not pin its pages for each
  // request.
  virtual bool has_registered_buffers() const { return false; }
};

struct IoEngineOptions {
  int fd = -1;
  int wakeup_fd = -1;               // an eventfd that becomes readable when results are there
  std::span<std::byte> registered;  // the memory that most requests lie in
  int max_in_flight = 32;
  int num_threads = 8;  // of the threads engine
};

// Both throw std::system_error where the system refuses; the io_uring one also where it was built
// without.
std::unique_ptr<IoEngine> make_uring_engine(const IoEngineOptions& options, bool register_buffers);
std::unique_ptr<IoEngine> make_thread_engine(const IoEngineOptions& options);

// The best engine that reads the file's first 4 KiB into `options.registered`. `note` says why a
// better one was passed over, and is empty otherwise.
std::unique_ptr<IoEngine> make_io_engine(const IoEngineOptions& options, bool allow_uring,
                                         std::string* note);

}  // namespace radixkv
