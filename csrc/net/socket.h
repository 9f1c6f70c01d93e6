// A connected socket that never blocks: what plain and encrypted streams stand on.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <string>

#include "core/file_descriptor.h"
#include "net/endpoint.h"
#include "net/stream.h"

namespace radixkv {

// Waits until a descriptor can be read (POLLIN) or written (POLLOUT). Throws NetFailure: kStopped
// once `wake_fd` is readable, kTimeout when time is up.
void wait_for(int fd, short events, int wake_fd, Stream::Clock::time_point until);

class Socket {
 public:
  // Connects. Throws NetFailure.
  Socket(const RedisEndpoint& endpoint, int wake_fd);

  int fd() const { return fd_.get(); }

  // As wait_for, within the timeout and the deadline.
  void wait(short events) const;

  // Whether it can be read or written within a moment. Throws kStopped as wait_for.
  bool is_ready_within(Stream::Clock::duration moment, short events) const;

  void set_deadline(Stream::Clock::time_point deadline) { deadline_ = deadline; }

 private:
  void connect_unix(const std::string& path);
  void connect_tcp(const RedisEndpoint& endpoint);
  void connect_to(const sockaddr* address, socklen_t length, const std::string& name);

  const int wake_fd_;
  const Stream::Clock::duration timeout_;
  Stream::Clock::time_point deadline_ = Stream::Clock::time_point::max();
  FileDescriptor fd_;
};

}  // namespace radixkv
