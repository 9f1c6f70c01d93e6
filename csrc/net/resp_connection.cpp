#include "net/resp_connection.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace radixkv {
namespace {

constexpr std::size_t kMaxLineBytes = 4096;
constexpr std::int64_t kMaxTextBytes = 1 << 20;
constexpr std::int64_t kMaxTexts = 64;
// Of a payload, waited for and received at once: to be woken by the first bytes costs both sides a
// quarter more CPU, and what is longer has left the cache when it is checked.
constexpr std::size_t kPieceBytes = 512 << 10;
constexpr std::size_t kUnixPieceBytes = 256 << 10;  // a server has no more on its way
// Received behind a payload in the same call: its end and the next reply's head.
constexpr std::size_t kReadAhead = 256;

std::int64_t parse_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw NetFailure(NetFailure::Kind::kRefused, "what answers is not a Redis server");
  }
  return value;
}

}  // namespace

void append_request(std::string* out, std::initializer_list<std::string_view> arguments) {
  out->append("*").append(std::to_string(arguments.size())).append("\r\n");
  for (const std::string_view argument : arguments) {
    out->append("$").append(std::to_string(argument.size())).append("\r\n");
    out->append(argument).append("\r\n");
  }
}

RespConnection::RespConnection(const RedisEndpoint& endpoint, int wake_fd)
    : stream_(connect_stream(endpoint, wake_fd)),
      piece_bytes_(endpoint.unix_path.empty() ? kPieceBytes : kUnixPieceBytes) {}

void RespConnection::open_database(const RedisEndpoint& endpoint) {
  std::string request;
  append_request(&request, {"SELECT", std::to_string(endpoint.database)});
  try {
    sign_in(endpoint);
    send(request);
    read_number();
  } catch (const RespError& error) {
    throw NetFailure(NetFailure::Kind::kRefused, error.text);
  }
  refuse_cluster();
}

void RespConnection::sign_in(const RedisEndpoint& endpoint) {
  if (endpoint.password.empty()) return;
  std::string request;
  if (endpoint.username.empty()) {
    append_request(&request, {"AUTH", endpoint.password});
  } else {
    append_request(&request, {"AUTH", endpoint.username, endpoint.password});
  }
  send(request);
  read_number();
}

void RespConnection::refuse_cluster() {
  std::string request;
  append_request(&request, {"INFO", "cluster"});
  send(request);
  std::optional<std::string> info;
  try {
    info = read_text();
  } catch (const RespError&) {
    return;  // this user may not ask
  }
  if (info && info->find("cluster_enabled:1") != std::string::npos) {
    throw NetFailure(NetFailure::Kind::kRefused,
                     "the server is part of a cluster, which is not served: name a single server");
  }
}

void RespConnection::send(std::string_view requests) {
  const iovec part = {const_cast<char*>(requests.data()), requests.size()};
  stream_->send({&part, 1}, nullptr);
}

std::int64_t RespConnection::read_number() {
  const std::string line = read_line();
  if (line.starts_with('-')) throw RespError{line.substr(1)};
  if (line.starts_with('+')) return 1;
  if (!line.starts_with(':')) parse_number("");
  return parse_number(std::string_view(line).substr(1));
}

std::optional<std::int64_t> RespConnection::read_length() {
  const std::string line = read_line();
  if (line.starts_with('-')) throw RespError{line.substr(1)};
  if (!line.starts_with('$')) parse_number("");
  const std::int64_t length = parse_number(std::string_view(line).substr(1));
  if (length < 0) return std::nullopt;
  return length;
}

std::optional<std::string> RespConnection::read_text() {
  const std::optional<std::int64_t> length = read_length();
  if (!length) return std::nullopt;
  if (*length > kMaxTextBytes) parse_number("");
  std::string text(static_cast<std::size_t>(*length), '\0');
  read_bytes(std::as_writable_bytes(std::span(text)));
  end_bytes();
  return text;
}

std::optional<std::vector<std::string>> RespConnection::read_texts() {
  const std::string line = read_line();
  if (line.starts_with('-')) throw RespError{line.substr(1)};
  if (!line.starts_with('*')) parse_number("");
  const std::int64_t count = parse_number(std::string_view(line).substr(1));
  if (count < 0) return std::nullopt;
  if (count > kMaxTexts) parse_number("");
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < count; ++i) texts.push_back(read_text().value_or(""));
  return texts;
}

void RespConnection::read_bytes(std::span<std::byte> into, StreamedChecksum* checksum) {
  const auto take = [&](std::size_t count) {
    if (checksum != nullptr) checksum->add(into.first(count));
    into = into.subspan(count);
  };
  const std::size_t there = std::min(into.size(), end_ - begin_);
  std::copy_n(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_), there, into.begin());
  begin_ += there;
  take(there);
  while (!into.empty()) {
    // The buffer is empty here, so that what comes behind the payload goes to its front.
    const std::size_t piece = std::min(into.size(), piece_bytes_);
    const bool is_last = piece == into.size();
    const std::size_t enough = piece > kBufferBytes ? piece : 1;
    const iovec parts[] = {{into.data(), piece}, {buffer_.data(), kReadAhead}};
    const std::size_t count = stream_->receive({parts, is_last ? 2u : 1u}, enough);
    const std::size_t used = std::min(count, piece);
    begin_ = 0;
    end_ = count - used;
    take(used);
  }
}

void RespConnection::skip_bytes(std::int64_t count) {
  std::vector<std::byte> waste(static_cast<std::size_t>(std::min<std::int64_t>(count, 1 << 20)));
  while (count > 0) {
    const auto part = std::min(count, static_cast<std::int64_t>(waste.size()));
    read_bytes(std::span(waste).first(static_cast<std::size_t>(part)));
    count -= part;
  }
}

void RespConnection::end_bytes() {
  const char first = next_char();
  const char second = next_char();
  if (first != '\r' || second != '\n') parse_number("");
}

std::string RespConnection::read_line() {
  std::string line;
  for (char next = next_char(); next != '\n'; next = next_char()) {
    if (line.size() == kMaxLineBytes) parse_number("");
    line.push_back(next);
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

char RespConnection::next_char() {
  if (begin_ == end_) {
    const iovec part = {buffer_.data(), buffer_.size()};
    begin_ = 0;
    end_ = stream_->receive({&part, 1}, 1);
  }
  return static_cast<char>(buffer_[begin_++]);
}

}  // namespace radixkv
