// RespConnection speaks RESP2, the protocol of Redis and Valkey, over one stream.
//
//   send   *3 $3 SET $45 key $4194304 ┐      requests follow each other without waiting for replies
//          payload, from where it lies ┘
//   reply  +OK │ -ERR … │ :1 │ $4194304 payload, to where it belongs │ $-1
//
// Replies come in the order of the requests; whoever leaves one unread closes the connection.
// Thread safety: one thread. Every call may throw NetFailure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/checksum.h"
#include "net/stream.h"

namespace radixkv {

// The server refused a request; its text, such as "OOM command not allowed …".
struct RespError {
  std::string text;
  bool starts_with(std::string_view word) const { return text.starts_with(word); }
};

// Appends a request to `out`: the number of its arguments, then each with its length.
void append_request(std::string* out, std::initializer_list<std::string_view> arguments);

class RespConnection {
 public:
  // Connects.
  RespConnection(const RedisEndpoint& endpoint, int wake_fd);

  // Signs in and takes the database. Throws NetFailure with the server's reason, also where the
  // server is part of a cluster: its keys would be spread over others.
  void open_database(const RedisEndpoint& endpoint);

  // Says the password, if the endpoint has one. Throws RespError.
  void sign_in(const RedisEndpoint& endpoint);

  void send(std::span<const iovec> parts, const Stream::Meanwhile& meanwhile) {
    stream_->send(parts, meanwhile);
  }
  void send(std::string_view requests);
  void set_deadline(Stream::Clock::time_point deadline) { stream_->set_deadline(deadline); }

  // A reply that is a number, a status or an error. A status counts as 1.
  // Throws RespError where the server refused.
  std::int64_t read_number();

  // A reply of bytes, whole; nullopt where there is no such key. Throws RespError.
  std::optional<std::string> read_text();

  // A reply of several of these; nullopt where there is nothing of that name. Throws RespError.
  std::optional<std::vector<std::string>> read_texts();

  // The length of a reply of bytes, which are to be read next and then ended; nullopt where there
  // is no such key. Throws RespError.
  std::optional<std::int64_t> read_length();
  // `checksum`, if given, takes them in as they come.
  void read_bytes(std::span<std::byte> into, StreamedChecksum* checksum = nullptr);
  void skip_bytes(std::int64_t count);
  void end_bytes();

 private:
  static constexpr std::size_t kBufferBytes = 16 << 10;

  void refuse_cluster();
  std::string read_line();
  char next_char();

  std::unique_ptr<Stream> stream_;
  const std::size_t piece_bytes_;
  std::array<std::byte, kBufferBytes> buffer_;
  std::size_t begin_ = 0;  // of what is received and not read
  std::size_t end_ = 0;
};

}  // namespace radixkv
