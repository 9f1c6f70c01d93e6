#include "net/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/resolve.h"

namespace radixkv {
namespace {

// On its way to a server on this host: what is less than a cache is still there when it is read,
// which costs both sides a third less CPU. For 10 Gbit/s and 1 ms it would be too little.
constexpr int kLocalSendBytes = 256 << 10;

std::string describe(int error) { return std::strerror(error); }

void set_option(int fd, int level, int name, int value) {
  // Best effort: without it the connection is slower, not wrong.
  static_cast<void>(setsockopt(fd, level, name, &value, sizeof value));
}

// Whether both ends of a connection have one address.
bool is_on_this_host(int fd) {
  sockaddr_storage here{}, there{};
  socklen_t here_size = sizeof here, there_size = sizeof there;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&here), &here_size) != 0) return false;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&there), &there_size) != 0) return false;
  if (here.ss_family == AF_UNIX) return true;
  if (here.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(here).sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(there).sin_addr.s_addr;
  }
  const auto& here6 = reinterpret_cast<const sockaddr_in6&>(here).sin6_addr;
  const auto& there6 = reinterpret_cast<const sockaddr_in6&>(there).sin6_addr;
  return std::memcmp(&here6, &there6, sizeof here6) == 0;
}

}  // namespace

Socket::Socket(const RedisEndpoint& endpoint, int wake_fd)
    : wake_fd_(wake_fd),
      timeout_(std::chrono::duration_cast<Stream::Clock::duration>(
          std::chrono::duration<double>(endpoint.timeout_s))) {
  if (endpoint.unix_path.empty()) {
    connect_tcp(endpoint);
  } else {
    connect_unix(endpoint.unix_path);
  }
}

void Socket::connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw NetFailure(NetFailure::Kind::kRefused, path + ": the path is too long for a socket");
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address, path);
}

void Socket::connect_tcp(const RedisEndpoint& endpoint) {
  const Addresses addresses =
      resolve(endpoint.host, endpoint.port, wake_fd_, Stream::Clock::now() + timeout_);
  const std::string name = endpoint.host + ":" + std::to_string(endpoint.port);
  for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
    try {
      connect_to(address->ai_addr, address->ai_addrlen, name);
      break;
    } catch (const NetFailure& failure) {
      if (address->ai_next == nullptr || failure.kind() == NetFailure::Kind::kStopped) throw;
    }
  }
  set_option(fd(), IPPROTO_TCP, TCP_NODELAY, 1);
}

void Socket::connect_to(const sockaddr* address, socklen_t length, const std::string& name) {
  fd_ = FileDescriptor(socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd_.is_open()) throw NetFailure(NetFailure::Kind::kRefused, name + ": " + describe(errno));
  int error = connect(fd(), address, length) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    wait(POLLOUT);
    socklen_t size = sizeof error;
    getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error != 0) throw NetFailure(NetFailure::Kind::kRefused, name + ": " + describe(error));
  if (is_on_this_host(fd())) set_option(fd(), SOL_SOCKET, SO_SNDBUF, kLocalSendBytes);
}

void Socket::wait(short events) const {
  wait_for(fd(), events, wake_fd_, std::min(deadline_, Stream::Clock::now() + timeout_));
}

bool Socket::is_ready_within(Stream::Clock::duration moment, short events) const {
  try {
    wait_for(fd(), events, wake_fd_, std::min(deadline_, Stream::Clock::now() + moment));
    return true;
  } catch (const NetFailure& failure) {
    if (failure.kind() != NetFailure::Kind::kTimeout) throw;
    return false;
  }
}

void wait_for(int fd, short events, int wake_fd, Stream::Clock::time_point until) {
  pollfd watched[] = {{fd, events, 0}, {wake_fd, POLLIN, 0}};
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Stream::Clock::now());
    const int count = poll(watched, 2, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (count < 0 && errno == EINTR) continue;
    if (watched[1].revents != 0) throw NetFailure(NetFailure::Kind::kStopped, "shutting down");
    if (count > 0) return;
    throw NetFailure(NetFailure::Kind::kTimeout, "no answer in time");
  }
}

}  // namespace radixkv
