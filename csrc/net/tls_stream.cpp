#include "net/tls_stream.h"

#include <openssl/err.h>
#include <poll.h>

namespace radixkv {
namespace {

std::string last_error() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return text == nullptr ? "TLS failed" : std::string("TLS: ") + text;
}

}  // namespace

TlsStream::TlsStream(const RedisEndpoint& endpoint, int wake_fd)
    : socket_(endpoint, wake_fd), context_(SSL_CTX_new(TLS_client_method())) {
  // As where the host's configuration of OpenSSL has no cipher.
  if (!context_) throw NetFailure(NetFailure::Kind::kRefused, last_error());
  trust(endpoint);
  session_.reset(SSL_new(context_.get()));
  if (!session_ || SSL_set_fd(session_.get(), socket_.fd()) != 1 ||
      (endpoint.verifies_server && SSL_set1_host(session_.get(), endpoint.host.c_str()) != 1)) {
    throw NetFailure(NetFailure::Kind::kRefused, last_error());
  }
  SSL_set_tlsext_host_name(session_.get(), endpoint.host.c_str());
  for (;;) {
    ERR_clear_error();
    const int result = SSL_connect(session_.get());
    if (result == 1) return;
    wait_or_throw(result);
  }
}

void TlsStream::trust(const RedisEndpoint& endpoint) {
  SSL_CTX_set_min_proto_version(context_.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context_.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_options(context_.get(), SSL_OP_IGNORE_UNEXPECTED_EOF);
  if (!endpoint.verifies_server) return;
  SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
  const int trusted =
      endpoint.ca_file.empty()
          ? SSL_CTX_set_default_verify_paths(context_.get())
          : SSL_CTX_load_verify_locations(context_.get(), endpoint.ca_file.c_str(), nullptr);
  if (trusted != 1) {
    throw NetFailure(NetFailure::Kind::kRefused, endpoint.ca_file + ": " + last_error());
  }
}

void TlsStream::send(std::span<const iovec> parts, const Meanwhile& /*meanwhile*/) {
  for (const iovec& part : parts) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    for (std::size_t sent = 0; sent < part.iov_len;) {
      std::size_t count = 0;
      ERR_clear_error();
      const int result = SSL_write_ex(session_.get(), bytes + sent, part.iov_len - sent, &count);
      if (result != 1) wait_or_throw(result);
      sent += count;
    }
  }
}

std::size_t TlsStream::receive(std::span<const iovec> parts, std::size_t) {
  for (;;) {
    std::size_t count = 0;
    ERR_clear_error();
    const int result =
        SSL_read_ex(session_.get(), parts.front().iov_base, parts.front().iov_len, &count);
    if (result == 1) return count;
    wait_or_throw(result);
  }
}

void TlsStream::wait_or_throw(int result) {
  switch (SSL_get_error(session_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return socket_.wait(POLLIN);
    case SSL_ERROR_WANT_WRITE:
      return socket_.wait(POLLOUT);
    case SSL_ERROR_ZERO_RETURN:
    case SSL_ERROR_SYSCALL:
      throw NetFailure(NetFailure::Kind::kClosed, "the server hung up");
    default:
      throw NetFailure(NetFailure::Kind::kRefused, last_error());
  }
}

}  // namespace radixkv
