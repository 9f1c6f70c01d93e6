#include "net/redis_store.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "core/checksum.h"
#include "net/object_reader.h"
#include "net/rungs.h"
#include "net/sentinel.h"

namespace radixkv {
namespace {

constexpr std::size_t kFirstKeys = 64;  // a prompt of 4,096 tokens
constexpr std::size_t kMoreKeys = 1024;
constexpr double kLeastBytesPerS = 20e6;  // slower than this is as good as dead

iovec part_of(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

iovec part_of(const std::string& text) { return part_of(std::as_bytes(std::span(text))); }

CompletionStatus status_of(const RespError& error) {
  return error.starts_with("OOM") ? CompletionStatus::kFull : CompletionStatus::kFailed;
}

}  // namespace

// Checksums of payloads, one after the other. The next is made in pieces while the server takes
// what is sent, which costs it more than us; the first while it is asked what it has.
class RedisStore::Checksums {
 public:
  explicit Checksums(std::span<const ChunkObject> objects) : objects_(objects) { begin(0); }

  // Goes on with the next one, a little.
  void add_piece() {
    const std::span<const std::byte> piece = rest_.first(std::min(rest_.size(), kPieceBytes));
    if (!piece.empty()) checksum_->add(piece);
    rest_ = rest_.subspan(piece.size());
  }

  // That of an object, which is the next one or behind it: those between are not needed.
  std::uint64_t take(const ChunkObject& object) {
    const auto index = static_cast<std::size_t>(&object - objects_.data());
    if (index != next_) begin(index);
    checksum_->add(rest_);
    const std::uint64_t value = checksum_->value();
    begin(index + 1);
    return value;
  }

  // Makes all of the next one.
  void finish_next() {
    while (!rest_.empty()) add_piece();
  }

 private:
  static constexpr std::size_t kPieceBytes = 256 << 10;

  void begin(std::size_t index) {
    next_ = index;
    rest_ = {};
    checksum_.emplace();
    if (index < objects_.size()) rest_ = objects_[index].payload;
  }

  const std::span<const ChunkObject> objects_;
  std::size_t next_ = 0;
  std::span<const std::byte> rest_;  // of the next one's payload
  std::optional<StreamedChecksum> checksum_;
};

RedisStore::RedisStore(const ObjectShape& shape, const RedisEndpoint& endpoint, int wake_fd)
    : shape_(shape), endpoint_(endpoint), connection_(find_server(endpoint, wake_fd), wake_fd) {
  connection_.open_database(endpoint);
}

void RedisStore::ping() {
  limit_time(0);
  connection_.send("*1\r\n$4\r\nPING\r\n");
  try {
    connection_.read_number();
  } catch (const RespError& error) {
    throw NetFailure(NetFailure::Kind::kRefused, error.text);
  }
}

// A server that trickles does not time out by itself.
void RedisStore::limit_time(std::int64_t num_bytes) {
  const double seconds = 2 * endpoint_.timeout_s + static_cast<double>(num_bytes) / kLeastBytesPerS;
  connection_.set_deadline(
      Stream::Clock::now() +
      std::chrono::duration_cast<Stream::Clock::duration>(std::chrono::duration<double>(seconds)));
}

StoreOutcome RedisStore::put(std::span<const ChunkObject> objects) {
  std::int64_t num_bytes = 0;
  for (const ChunkObject& object : objects) num_bytes += std::ssize(object.payload);
  limit_time(num_bytes);
  Checksums checksums(objects);
  const std::vector<bool> is_there = find(objects, &checksums);
  std::vector<std::int64_t> num_replies(objects.size());
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (!is_there[i]) num_replies[i] += send_object(objects[i], &checksums);
    if (!is_there[i] || endpoint_.ttl_s > 0) num_replies[i] += send_rungs(objects[i]);
  }
  StoreOutcome outcome{objects.size()};
  for (std::size_t i = 0; i < objects.size(); ++i) {
    for (; num_replies[i] > 0; --num_replies[i]) {
      try {
        connection_.read_number();
      } catch (const RespError& error) {
        if (i < outcome.num_ok) outcome = {i, status_of(error)};
      }
    }
  }
  return outcome;
}

// Which objects the server has, with all parts. Where it forgets what is not used, this is a use.
std::vector<bool> RedisStore::find(std::span<const ChunkObject> objects, Checksums* checksums) {
  std::string requests;
  for (const ChunkObject& object : objects) {
    for (std::int64_t part = 0; part < object.num_parts(); ++part) {
      const std::string name = object_name(shape_, object.key, part);
      if (endpoint_.ttl_s > 0) {
        append_request(&requests, {"EXPIRE", name, std::to_string(endpoint_.ttl_s)});
      } else {
        append_request(&requests, {"EXISTS", name});
      }
    }
  }
  connection_.send(requests);
  checksums->finish_next();
  std::vector<bool> found;
  for (const ChunkObject& object : objects) {
    std::int64_t num_there = 0;
    for (std::int64_t part = 0; part < object.num_parts(); ++part) {
      try {
        num_there += connection_.read_number();
      } catch (const RespError&) {
        // Then it is written, and that is refused with a reason.
      }
    }
    found.push_back(num_there == object.num_parts());
  }
  return found;
}

// One SET for each part, the first part last. Gives the number of replies to come.
std::int64_t RedisStore::send_object(const ChunkObject& object, Checksums* checksums) {
  const std::vector<std::byte> head = make_head(shape_, object, checksums->take(object));
  for (std::int64_t part = object.num_parts(); part-- > 0;) {
    const std::span<const std::byte> payload = object.part(part);
    const std::span<const std::byte> before = part == 0 ? std::span(head) : std::span<std::byte>();
    const std::string name = object_name(shape_, object.key, part);
    std::string begin = endpoint_.ttl_s > 0 ? "*5\r\n" : "*3\r\n";
    begin += "$3\r\nSET\r\n$" + std::to_string(name.size()) + "\r\n" + name + "\r\n$" +
             std::to_string(before.size() + payload.size()) + "\r\n";
    std::string end = "\r\n";
    if (endpoint_.ttl_s > 0) {
      const std::string seconds = std::to_string(endpoint_.ttl_s);
      end += "$2\r\nEX\r\n$" + std::to_string(seconds.size()) + "\r\n" + seconds + "\r\n";
    }
    const iovec parts[] = {part_of(begin), part_of(before), part_of(payload), part_of(end)};
    connection_.send(parts, [checksums] { checksums->add_piece(); });
  }
  return object.num_parts();
}

std::int64_t RedisStore::send_rungs(const ChunkObject& object) {
  const std::vector<std::size_t> lengths = rung_lengths(shape_, object.tokens.size());
  std::string requests;
  for (const std::size_t length : lengths) {
    const std::string name = rung_name(shape_, object.parent_key, object.tokens.first(length));
    const std::string_view value = rung_value(object.tokens);
    if (endpoint_.ttl_s > 0) {
      append_request(&requests, {"SET", name, value, "EX", std::to_string(endpoint_.ttl_s)});
    } else {
      append_request(&requests, {"SET", name, value});
    }
  }
  connection_.send(requests);
  return std::ssize(lengths);
}

StoreOutcome RedisStore::get(std::span<const ChunkObject> objects) {
  std::int64_t num_bytes = 0;
  for (const ChunkObject& object : objects) num_bytes += std::ssize(object.payload);
  limit_time(num_bytes);
  ObjectReader reader(shape_, objects, &connection_);
  StoreOutcome outcome{objects.size()};
  std::vector<const ChunkObject*> corrupt;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    const CompletionStatus status = reader.read_next();
    if (status == CompletionStatus::kCorrupt) corrupt.push_back(&objects[i]);
    if (status != CompletionStatus::kOk && i < outcome.num_ok) outcome = {i, status};
  }
  for (const ChunkObject* object : corrupt) remove(*object);
  if (endpoint_.ttl_s > 0) renew(objects.first(outcome.num_ok));
  return outcome;
}

// What is read is used: from now on it has all of its time to live again.
void RedisStore::renew(std::span<const ChunkObject> objects) {
  std::string requests;
  std::int64_t num_replies = 0;
  const auto expire = [&](std::string_view name) {
    append_request(&requests, {"EXPIRE", name, std::to_string(endpoint_.ttl_s)});
    ++num_replies;
  };
  for (const ChunkObject& object : objects) {
    for (std::int64_t part = 0; part < object.num_parts(); ++part) {
      expire(object_name(shape_, object.key, part));
    }
    for (const std::size_t length : rung_lengths(shape_, object.tokens.size())) {
      expire(rung_name(shape_, object.parent_key, object.tokens.first(length)));
    }
  }
  connection_.send(requests);
  for (; num_replies > 0; --num_replies) {
    try {
      connection_.read_number();
    } catch (const RespError&) {
      // It may be read, but not written, by this user: its time ends as it would have.
    }
  }
}

void RedisStore::remove(const ChunkObject& object) {
  std::string request;
  append_request(&request, {"UNLINK", object_name(shape_, object.key)});
  connection_.send(request);
  try {
    connection_.read_number();
  } catch (const RespError&) {
    // It may be read, but not written, by this user: it stays spoilt, and a miss.
  }
}

CompletionStatus RedisStore::get_front(const ChunkObject& object) {
  std::size_t num_shared = 0;
  const std::vector<Token> tokens = climb(object.parent_key, object.tokens, &num_shared);
  if (num_shared < object.tokens.size()) return CompletionStatus::kAbsent;
  std::vector<std::byte> payload(tokens.size() * static_cast<std::size_t>(shape_.token_bytes()));
  const ChunkObject whole = {object.parent_key, chunk_key(object.parent_key, tokens), tokens,
                             payload};
  const StoreOutcome outcome = get({&whole, 1});
  if (outcome.num_ok == 0) return outcome.status;
  // Of each row of the chunk, the tokens that are wanted.
  const auto row = static_cast<std::size_t>(shape_.row_bytes);
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape_.num_rows); ++i) {
    std::memcpy(object.payload.data() + i * object.tokens.size() * row,
                payload.data() + i * tokens.size() * row, object.tokens.size() * row);
  }
  return CompletionStatus::kOk;
}

std::size_t RedisStore::lookup(const Digest& parent, std::span<const Token> tokens) {
  Digest key = parent;
  std::size_t num_found = 0;
  for (std::size_t batch = kFirstKeys;; batch = kMoreKeys) {
    std::vector<Digest> keys;
    for (auto rest = tokens; keys.size() < batch && rest.size() >= shape_.chunk_tokens;
         rest = rest.subspan(shape_.chunk_tokens)) {
      keys.push_back(chunk_key(keys.empty() ? key : keys.back(), rest.first(shape_.chunk_tokens)));
    }
    limit_time(0);
    const std::size_t num_there = count_there(keys);
    if (num_there > 0) key = keys[num_there - 1];
    tokens = tokens.subspan(num_there * shape_.chunk_tokens);
    num_found += num_there * shape_.chunk_tokens;
    if (num_there < batch) break;
  }
  std::size_t num_shared = 0;
  climb(key, tokens.first(std::min(tokens.size(), shape_.chunk_tokens)), &num_shared);
  // A full chunk that goes along was asked for, and has gone.
  return num_shared < shape_.chunk_tokens ? num_found + num_shared : num_found;
}

std::size_t RedisStore::count_there(std::span<const Digest> keys) {
  std::string requests;
  for (const Digest& key : keys) append_request(&requests, {"EXISTS", object_name(shape_, key)});
  connection_.send(requests);
  std::size_t num_there = keys.size();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    std::int64_t is_there = 0;
    try {
      is_there = connection_.read_number();
    } catch (const RespError&) {
      // As if it were not there.
    }
    if (is_there != 1) num_there = std::min(num_there, i);
  }
  return num_there;
}

// The tokens of the announced chunk that goes along with `tokens` for longest, and how far.
std::vector<Token> RedisStore::climb(const Digest& parent, std::span<const Token> tokens,
                                     std::size_t* num_shared) {
  const std::vector<std::size_t> lengths = rung_lengths(shape_, tokens.size());
  std::string requests;
  for (const std::size_t length : lengths) {
    append_request(&requests, {"GET", rung_name(shape_, parent, tokens.first(length))});
  }
  limit_time(0);
  connection_.send(requests);
  std::vector<Token> best;
  *num_shared = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    std::vector<Token> chunk;
    std::size_t shared = 0;
    try {
      const std::optional<std::string> value = connection_.read_text();
      if (value) shared = read_rung(shape_, *value, tokens, &chunk);
    } catch (const RespError&) {
      // As if it were not there.
    }
    if (shared > *num_shared) {
      *num_shared = shared;
      best = std::move(chunk);
    }
  }
  return best;
}

}  // namespace radixkv
