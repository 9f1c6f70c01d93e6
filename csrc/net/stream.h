// Stream is one connection to a server: bytes from and to several places at once, and nothing waits
// for ever.
//
// Each wait for the other side ends after the timeout at the latest, and all of them at the
// deadline, where one is set, or when the wake-up descriptor becomes readable. Whatever goes wrong
// is a NetFailure; the stream is of no use then.
//
// Thread safety: one thread.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "net/endpoint.h"

namespace radixkv {

class NetFailure : public std::runtime_error {
 public:
  // kClosed: the other side ended the connection, as servers do with idle ones and when they
  // restart.
  enum class Kind { kClosed, kTimeout, kRefused, kStopped };

  NetFailure(Kind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

class Stream {
 public:
  using Clock = std::chrono::steady_clock;
  // A little work, to be done while the other side is slow.
  using Meanwhile = std::function<void()>;

  virtual ~Stream() = default;

  // Sends all of the parts. Calls `meanwhile`, if given, before it waits; with TLS never.
  virtual void send(std::span<const iovec> parts, const Meanwhile& meanwhile) = 0;

  // Receives at least one byte, into the parts one after the other; how many. Where the kernel can
  // tell, it waits a moment for `enough` of them: to be woken for each few costs both sides much.
  virtual std::size_t receive(std::span<const iovec> parts, std::size_t enough) = 0;

  // No wait goes on beyond it.
  virtual void set_deadline(Clock::time_point deadline) = 0;
};

// Connects by TCP or a unix socket, with TLS where the endpoint says so. `wake_fd` outlives the
// stream; once it is readable, every call fails with kStopped. Throws NetFailure.
std::unique_ptr<Stream> connect_stream(const RedisEndpoint& endpoint, int wake_fd);

}  // namespace radixkv
