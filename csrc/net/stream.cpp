#include "net/stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "net/socket.h"
#include "net/tls_stream.h"

namespace radixkv {
namespace {

class PlainStream : public Stream {
 public:
  PlainStream(const RedisEndpoint& endpoint, int wake_fd) : socket_(endpoint, wake_fd) {}

  void send(std::span<const iovec> parts, const Meanwhile& meanwhile) override {
    std::size_t offset = 0;  // bytes of parts.front() that are sent
    while (!parts.empty()) {
      offset += send_some(parts, offset, meanwhile);
      while (!parts.empty() && offset >= parts.front().iov_len) {
        offset -= parts.front().iov_len;
        parts = parts.subspan(1);
      }
    }
  }

  std::size_t receive(std::span<const iovec> parts, std::size_t enough) override {
    wait_for(enough);
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(parts.data());
    message.msg_iovlen = parts.size();
    for (;;) {
      const ssize_t count = recvmsg(socket_.fd(), &message, 0);
      if (count > 0) return static_cast<std::size_t>(count);
      if (count == 0) throw NetFailure(NetFailure::Kind::kClosed, "the server hung up");
      wait_or_throw(POLLIN);
    }
  }

  void set_deadline(Clock::time_point deadline) override { socket_.set_deadline(deadline); }

 private:
  static constexpr std::size_t kMaxParts = 64;
  static constexpr auto kMoment = std::chrono::milliseconds(20);

  std::size_t send_some(std::span<const iovec> parts, std::size_t offset,
                        const Meanwhile& meanwhile) {
    std::array<iovec, kMaxParts> rest;
    const std::size_t count = std::min(parts.size(), kMaxParts);
    std::copy_n(parts.begin(), count, rest.begin());
    rest[0].iov_base = static_cast<std::byte*>(rest[0].iov_base) + offset;
    rest[0].iov_len -= offset;
    msghdr message{};
    message.msg_iov = rest.data();
    message.msg_iovlen = count;
    for (;;) {
      const ssize_t sent = sendmsg(socket_.fd(), &message, MSG_NOSIGNAL);
      if (sent >= 0) return static_cast<std::size_t>(sent);
      const int error = errno;
      if (meanwhile && (error == EAGAIN || error == EWOULDBLOCK)) meanwhile();
      errno = error;
      wait_or_throw(POLLOUT);
    }
  }

  // Until so many bytes are there, unless they come slowly; on a unix socket until the first.
  void wait_for(std::size_t enough) {
    count_as_readable(enough);
    if (enough > 1 && !socket_.is_ready_within(kMoment, POLLIN)) count_as_readable(1);
  }

  void count_as_readable(std::size_t num_bytes) {
    if (num_bytes == low_mark_) return;
    const int mark = static_cast<int>(num_bytes);
    static_cast<void>(setsockopt(socket_.fd(), SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark));
    low_mark_ = num_bytes;
  }

  void wait_or_throw(short events) const {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return socket_.wait(events);
    if (errno != EINTR) throw NetFailure(NetFailure::Kind::kClosed, std::strerror(errno));
  }

  Socket socket_;
  std::size_t low_mark_ = 1;
};

}  // namespace

std::unique_ptr<Stream> connect_stream(const RedisEndpoint& endpoint, int wake_fd) {
  if (endpoint.tls) return std::make_unique<TlsStream>(endpoint, wake_fd);
  return std::make_unique<PlainStream>(endpoint, wake_fd);
}

}  // namespace radixkv
