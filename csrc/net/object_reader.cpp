#include "net/object_reader.h"

#include <algorithm>
#include <string>

namespace radixkv {
namespace {

constexpr std::size_t kRangeBytes = 512 << 10;  // and a copy of it, in a cache of 1 MiB or more
constexpr std::size_t kMostUnderWay = 8 << 20;  // 25 Gbit/s for 2 ms and more

}  // namespace

ObjectReader::ObjectReader(const ObjectShape& shape, std::span<const ChunkObject> objects,
                           RespConnection* connection)
    : shape_(shape), objects_(objects), connection_(*connection) {
  for (std::size_t i = 0; i < objects.size(); ++i) cut(i);
}

void ObjectReader::cut(std::size_t object) {
  const ChunkObject& chunk = objects_[object];
  for (std::int64_t part = 0; part < chunk.num_parts(); ++part) {
    const std::size_t head_bytes = part == 0 ? chunk.head_bytes() : 0;
    const std::size_t value_bytes = head_bytes + chunk.part(part).size();
    for (std::size_t first = 0; first < value_bytes; first += kRangeBytes) {
      const std::size_t num_bytes = std::min(kRangeBytes, value_bytes - first);
      ranges_.push_back({object, part, first, num_bytes, first + num_bytes == value_bytes});
    }
  }
}

void ObjectReader::ask() {
  std::string requests;
  while (num_asked_ < ranges_.size() && bytes_under_way_ + kRangeBytes <= kMostUnderWay) {
    const Range& range = ranges_[num_asked_++];
    // Of the last a byte more than there should be: a longer value shows.
    const std::size_t last = range.first + range.num_bytes - (range.is_last ? 0 : 1);
    append_request(&requests,
                   {"GETRANGE", object_name(shape_, objects_[range.object].key, range.part),
                    std::to_string(range.first), std::to_string(last)});
    bytes_under_way_ += range.num_bytes;
  }
  if (!requests.empty()) connection_.send(requests);
}

CompletionStatus ObjectReader::read_next() {
  const std::size_t index = ranges_[num_read_].object;
  const ChunkObject& object = objects_[index];
  std::vector<std::byte> head(object.head_bytes());
  StreamedChecksum checksum;
  bool is_whole = true;
  bool is_there = true;
  bool is_refused = false;
  for (; num_read_ < ranges_.size() && ranges_[num_read_].object == index; ++num_read_) {
    ask();
    const Range& range = ranges_[num_read_];
    bytes_under_way_ -= range.num_bytes;
    try {
      const std::int64_t length = read(range, head, &checksum);
      is_there &= length > 0 || range.first > 0;
      is_whole &= length == static_cast<std::int64_t>(range.num_bytes);
    } catch (const RespError&) {
      is_refused = true;
    }
  }
  if (is_refused) return CompletionStatus::kFailed;
  if (!is_there) return CompletionStatus::kAbsent;
  const bool is_right = is_whole && is_the_one(shape_, object, head, checksum.value());
  return is_right ? CompletionStatus::kOk : CompletionStatus::kCorrupt;
}

// Gives the length of the reply, which goes nowhere where it is not the expected one.
std::int64_t ObjectReader::read(const Range& range, std::span<std::byte> head,
                                StreamedChecksum* checksum) {
  const std::int64_t length = connection_.read_length().value_or(-1);
  if (length < 0) return 0;
  if (length == static_cast<std::int64_t>(range.num_bytes)) {
    const std::size_t before = range.part == 0 ? head.size() : 0;  // the payload, in the value
    const std::size_t begin = std::max(range.first, before) - before;
    const std::size_t end = range.first + range.num_bytes - before;
    if (range.first < before) connection_.read_bytes(head);
    connection_.read_bytes(objects_[range.object].part(range.part).subspan(begin, end - begin),
                           checksum);
  } else {
    connection_.skip_bytes(length);
  }
  connection_.end_bytes();
  return length;
}

}  // namespace radixkv
