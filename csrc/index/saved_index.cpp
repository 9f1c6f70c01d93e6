#include "index/saved_index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/checksum.h"
#include "index/index_file.h"

namespace radixkv {

namespace {

[[noreturn]] void damaged(const std::string& what) {
  throw IndexFormatError("index file: " + what);
}

// All of a file; sets how long it is.
std::unique_ptr<std::byte[]> read_file(const std::string& path, std::size_t& num_bytes) {
  const auto fail = [&] { throw std::system_error(errno, std::generic_category(), path); };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail();
  struct stat facts {};
  std::unique_ptr<std::byte[]> bytes;
  ssize_t done = ::fstat(file, &facts);
  num_bytes = 0;
  if (done == 0) {
    const auto size = static_cast<std::size_t>(facts.st_size);
    bytes = std::make_unique_for_overwrite<std::byte[]>(size);
    while (num_bytes < size) {
      done = ::read(file, bytes.get() + num_bytes, size - num_bytes);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) break;
      num_bytes += static_cast<std::size_t>(done);
    }
  }
  const int error = errno;
  ::close(file);
  errno = error;
  if (done < 0) fail();
  return bytes;
}

}  // namespace

// Walks over bytes; to go beyond their end is damage.
class SavedIndex::Reader {
 public:
  Reader(const std::byte* first, std::size_t num_bytes) : at_(first), num_left_(num_bytes) {}

  std::size_t num_left() const { return num_left_; }
  const std::byte* at() const { return at_; }

  const std::byte* skip(std::size_t num_bytes) {
    if (num_bytes > num_left_) damaged("an entry goes beyond its frame");
    num_left_ -= num_bytes;
    return std::exchange(at_, at_ + num_bytes);
  }

  template <class Value>
  Value get() {
    Value value;
    std::memcpy(&value, skip(sizeof value), sizeof value);
    return value;
  }

 private:
  const std::byte* at_;
  std::size_t num_left_;
};

SavedIndex::SavedIndex(const std::string& path) {
  std::size_t num_bytes = 0;
  bytes_ = read_file(path, num_bytes);
  Reader reader(bytes_.get(), num_bytes);
  read_header(reader);
  read_frames(reader);
  checksum_ = xxh3_64(bytes_.get(), num_bytes - num_lost_bytes_);
}

void SavedIndex::read_header(Reader& reader) {
  if (reader.num_left() < sizeof(IndexFileHeader)) damaged("too short for a header");
  const std::byte* behind_checksum = reader.at() + sizeof(std::uint64_t);
  const auto header = reader.get<IndexFileHeader>();
  if (header.magic != kIndexMagic) damaged("not a saved index");
  const std::uint64_t sum = xxh3_64(behind_checksum, sizeof header - sizeof header.checksum);
  if (header.checksum != sum) damaged("the header is damaged");
  if (header.version != kIndexVersion) {
    damaged("expected version " + std::to_string(kIndexVersion) + ", got " +
            std::to_string(header.version));
  }
  config_.chunk_tokens = header.chunk_tokens;
  config_.token_bytes = header.token_bytes;
  config_.unit_bytes = header.unit_bytes;
  config_.num_units = header.num_units;
  config_.tail_slack = header.tail_slack;
  config_.max_pinned = header.max_pinned;
  policy_name_ = header.policy.data();
}

void SavedIndex::read_frames(Reader& reader) {
  bool is_whole = false;
  for (std::uint64_t sequence = 1;; ++sequence) {
    const std::size_t num_left = reader.num_left();
    if (num_left == 0 && is_whole) return;
    FrameHead head{};
    bool counts = num_left >= sizeof head;
    if (counts) {
      std::memcpy(&head, reader.at(), sizeof head);
      counts = head.sequence == sequence && head.num_bytes <= num_left - sizeof head &&
               is_whole == (head.kind == FrameKind::kJournal) &&
               head.checksum == xxh3_64(reader.at() + sizeof head.checksum,
                                        sizeof head - sizeof head.checksum + head.num_bytes);
    }
    if (!counts) {
      if (!is_whole) damaged("the snapshot is damaged in frame " + std::to_string(sequence));
      num_lost_bytes_ = num_left;
      return;
    }
    reader.skip(sizeof head);
    read_entries(Reader(reader.skip(head.num_bytes), head.num_bytes));
    is_whole = is_whole || head.kind == FrameKind::kSnapshotEnd;
  }
}

void SavedIndex::read_entries(Reader entries) {
  while (entries.num_left() > 0) {
    const auto head = entries.get<ChangeHead>();
    if (head.tier >= kNumTiers) damaged("an entry names no tier");
    switch (head.kind) {
      case ChangeKind::kSpace:
        spaces_[head.id] = static_cast<std::int32_t>(digests_.size());
        digests_.push_back(entries.get<NamespaceDigest>());
        break;
      case ChangeKind::kChunk: {
        Row& row = this->row(head.id);
        row = Row{};
        row.parent = entries.get<ChunkId>();
        const auto space = entries.get<NamespaceId>();
        if (row.parent == kNoChunk) row.chunk.space = space_index(space);
        row.chunk.num_tokens = head.count;
        row.chunk.tokens = reinterpret_cast<const Token*>(entries.skip(head.count * sizeof(Token)));
        break;
      }
      case ChangeKind::kKept:
        row(head.id).chunk.num_units = head.count;
        row(head.id).chunk.offset[head.tier] = entries.get<std::uint32_t>();
        break;
      case ChangeKind::kLeft:
        row(head.id).chunk.offset[head.tier] = kNoExtent;
        break;
      case ChangeKind::kUse:
        row(head.id).chunk.num_uses = head.count;
        row(head.id).chunk.time = entries.get<std::uint64_t>();
        break;
      case ChangeKind::kMark:
        read_mark(entries, head.id);
        break;
      case ChangeKind::kTotals:
        totals_ = entries.get<IndexTotals>();
        break;
      default:
        damaged("an entry of an unknown kind");
    }
  }
}

void SavedIndex::read_mark(Reader& entries, NamespaceId space) {
  const auto head = entries.get<MarkHead>();
  MarkValues mark;
  mark.digest = digests_[static_cast<std::size_t>(space_index(space))];
  const std::size_t prefix_bytes = std::size_t{head.num_tokens} * sizeof(Token);
  const std::byte* prefix = entries.skip(prefix_bytes);
  mark.prefix.resize(head.num_tokens);
  if (prefix_bytes > 0) std::memcpy(mark.prefix.data(), prefix, prefix_bytes);
  if ((head.said & 1u) != 0) mark.priority = head.priority;
  if ((head.said & 2u) != 0) mark.time_to_live = head.time_to_live;
  for (std::size_t tier = 0; tier < kNumTiers; ++tier) {
    if ((head.said & 4u << tier) != 0) mark.quota_units[tier] = head.quota_units[tier];
  }
  for (std::uint32_t i = 0; i < head.num_pins; ++i) {
    const auto until = entries.get<std::uint64_t>();
    const auto length = entries.get<std::uint32_t>();
    const std::byte* name = entries.skip((std::size_t{length} + 3) / 4 * 4);
    mark.pins.emplace_back(std::string(reinterpret_cast<const char*>(name), length), until);
  }
  const auto known = std::ranges::find_if(marks_, [&](const MarkValues& other) {
    return other.digest == mark.digest && other.prefix == mark.prefix;
  });
  const bool is_silent = head.said == 0 && mark.pins.empty();
  if (known == marks_.end()) {
    if (!is_silent) marks_.push_back(std::move(mark));
  } else if (is_silent) {
    marks_.erase(known);
  } else {
    *known = std::move(mark);
  }
}

SavedIndex::Row& SavedIndex::row(ChunkId id) {
  if (id == kNoChunk) damaged("an entry names no chunk");
  if (id >= rows_.size()) rows_.resize(std::size_t{id} + 1);
  return rows_[id];
}

std::int32_t SavedIndex::space_index(NamespaceId space) const {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) damaged("an entry names no namespace");
  return found->second;
}

// Whether the chunk is one, and what its entry says it follows may be followed.
bool SavedIndex::may_follow(ChunkId id) const {
  const SavedChunk& chunk = rows_[id].chunk;
  const ChunkId parent = rows_[id].parent;
  if (!chunk.is_kept() || chunk.num_tokens == 0 || chunk.num_tokens > config_.chunk_tokens ||
      chunk.num_units == 0) {
    return false;
  }
  if (parent == kNoChunk) return true;
  return parent < rows_.size() && rows_[parent].chunk.num_tokens == config_.chunk_tokens;
}

// A chunk is nowhere where its parent is not. False where that leaves it no tier.
bool SavedIndex::settle_below(const SavedChunk* parent, SavedChunk& chunk) const {
  if (parent == nullptr) return true;
  chunk.space = parent->space;
  for (std::size_t tier = 0; tier < kNumTiers; ++tier) {
    if (parent->offset[tier] == kNoExtent) chunk.offset[tier] = kNoExtent;
  }
  return chunk.is_kept();
}

std::vector<SavedChunk> SavedIndex::chunks() const {
  enum : std::int64_t { kUnknown = -1, kMissing = -2, kWaits = -3 };
  std::vector<SavedChunk> ordered;
  ordered.reserve(rows_.size());
  std::vector<std::int64_t> places(rows_.size(), kUnknown);
  std::vector<ChunkId> path;
  for (ChunkId id = 0; id < rows_.size(); ++id) {
    // Up to what is placed or cannot be, then down again.
    path.clear();
    ChunkId at = id;
    bool leads_up = true;
    while (leads_up && at != kNoChunk && places[at] == kUnknown) {
      places[at] = kWaits;
      path.push_back(at);
      leads_up = may_follow(at);
      if (leads_up) at = rows_[at].parent;
    }
    // A chunk that leads to itself would still wait.
    bool is_missing = !leads_up || (at != kNoChunk && places[at] < 0);
    std::int64_t parent = at == kNoChunk || is_missing ? -1 : places[at];
    for (auto next = path.rbegin(); next != path.rend(); ++next) {
      if (is_missing) {
        places[*next] = kMissing;
        continue;
      }
      SavedChunk chunk = rows_[*next].chunk;
      chunk.parent = parent;
      is_missing =
          !settle_below(parent < 0 ? nullptr : &ordered[static_cast<std::size_t>(parent)], chunk);
      if (is_missing) {
        places[*next] = kMissing;
        continue;
      }
      parent = static_cast<std::int64_t>(ordered.size());
      places[*next] = parent;
      ordered.push_back(chunk);
    }
  }
  return ordered;
}

void SavedIndex::save(IndexFile& file) const {
  ChangeLog log;
  std::vector<NamespaceId> numbers(digests_.size(), 0);
  for (const auto& [number, index] : spaces_) numbers[static_cast<std::size_t>(index)] = number;
  for (std::size_t i = 0; i < digests_.size(); ++i) log.add_space(numbers[i], digests_[i]);
  for (ChunkId id = 0; id < rows_.size(); ++id) {
    const auto& [chunk, parent] = rows_[id];
    if (!chunk.is_kept() || chunk.num_tokens == 0) continue;
    const bool is_first = parent == kNoChunk;
    log.add_chunk(id, parent, is_first ? numbers[static_cast<std::size_t>(chunk.space)] : 0,
                  {chunk.tokens, chunk.num_tokens});
    log.add_use(id, chunk.num_uses, chunk.time);
    for (const Tier tier : kTiers) {
      const std::uint32_t offset = chunk.offset[index_of(tier)];
      if (offset != kNoExtent) log.add_kept(id, tier, offset, chunk.num_units);
    }
    if (log.num_bytes() >= kFrameBytes) file.append(FrameKind::kSnapshot, log.take());
  }
  for (const MarkValues& mark : marks_) {
    const auto digest = std::ranges::find(digests_, mark.digest);
    log.add_mark(numbers[static_cast<std::size_t>(digest - digests_.begin())], mark);
  }
  log.add_totals(totals_);
  file.append(FrameKind::kSnapshotEnd, log.take());
}

}  // namespace radixkv
