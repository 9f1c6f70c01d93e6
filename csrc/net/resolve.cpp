#include "net/resolve.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "net/socket.h"

namespace radixkv {
namespace {

// Shared with the thread that asks.
class Question {
 public:
  Question(std::string host, std::uint16_t port)
      : host_(std::move(host)), port_(std::to_string(port)), done_fd_(eventfd(0, EFD_CLOEXEC)) {
    if (done_fd_ < 0) throw NetFailure(NetFailure::Kind::kRefused, std::strerror(errno));
  }
  ~Question() { close(done_fd_); }
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

  // Readable once ask() is done.
  int done_fd() const { return done_fd_; }

  // Whether there is an address.
  bool ask(int flags) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(host_.c_str(), port_.c_str(), &hints, &found);
    addresses_.reset(found);
    error_.store(error, std::memory_order_release);
    static_cast<void>(eventfd_write(done_fd_, 1));
    return error == 0;
  }

  // REQUIRES: ask() is done.
  Addresses answer() {
    const int error = error_.load(std::memory_order_acquire);
    if (error != 0) {
      throw NetFailure(NetFailure::Kind::kRefused, host_ + ": " + gai_strerror(error));
    }
    return std::move(addresses_);
  }

 private:
  const std::string host_;
  const std::string port_;
  const int done_fd_;
  std::atomic<int> error_ = 0;
  Addresses addresses_{nullptr, &freeaddrinfo};
};

}  // namespace

Addresses resolve(const std::string& host, std::uint16_t port, int wake_fd,
                  Stream::Clock::time_point until) {
  Question number(host, port);
  if (number.ask(AI_NUMERICHOST)) return number.answer();
  const auto name = std::make_shared<Question>(host, port);
  try {
    std::thread([name] { name->ask(0); }).detach();
  } catch (const std::system_error& error) {
    throw NetFailure(NetFailure::Kind::kRefused, error.what());
  }
  wait_for(name->done_fd(), POLLIN, wake_fd, until);
  return name->answer();
}

}  // namespace radixkv
