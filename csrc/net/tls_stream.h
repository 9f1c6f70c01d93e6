// A stream through TLS. As slow as the cipher, and bytes are copied once more than on a plain one.
#pragma once

#include <openssl/ssl.h>

#include <memory>

#include "net/socket.h"
#include "net/stream.h"

namespace radixkv {

class TlsStream : public Stream {
 public:
  // Connects and agrees on keys. Throws NetFailure, also where the server's certificate is not
  // trusted.
  TlsStream(const RedisEndpoint& endpoint, int wake_fd);

  void send(std::span<const iovec> parts, const Meanwhile& meanwhile) override;
  std::size_t receive(std::span<const iovec> parts, std::size_t enough) override;
  void set_deadline(Clock::time_point deadline) override { socket_.set_deadline(deadline); }

 private:
  struct Free {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
    void operator()(SSL* session) const { SSL_free(session); }
  };

  void trust(const RedisEndpoint& endpoint);
  // What to do about a call that did not succeed: wait, or throw.
  void wait_or_throw(int result);

  Socket socket_;
  std::unique_ptr<SSL_CTX, Free> context_;
  std::unique_ptr<SSL, Free> session_;
};

}  // namespace radixkv
