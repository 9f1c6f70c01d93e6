#include "disk/recovery.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

namespace radixkv {
namespace {

std::size_t hash_of(const Digest& digest) {
  std::size_t value;
  std::memcpy(&value, digest.data(), sizeof value);
  return value;
}

struct DigestHash {
  std::size_t operator()(const Digest& digest) const { return hash_of(digest); }
};

// Chunks by key. A key is a hash, so it is its own place: linear probing, half of the slots used.
class KeyTable {
 public:
  explicit KeyTable(std::size_t num_chunks) : slots_(std::bit_ceil(2 * num_chunks + 1)) {}

  RecoveredChunk* find(const Digest& key) { return slot_of(key); }

  // False where another one has its key.
  bool add(RecoveredChunk* chunk) {
    RecoveredChunk*& slot = slot_of(chunk->entry.key);
    if (slot != nullptr) return false;
    slot = chunk;
    return true;
  }

 private:
  RecoveredChunk*& slot_of(const Digest& key) {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = hash_of(key) & mask;
    while (slots_[at] != nullptr && slots_[at]->entry.key != key) at = (at + 1) & mask;
    return slots_[at];
  }

  std::vector<RecoveredChunk*, HugePageAllocator<RecoveredChunk*>> slots_;
};

class Recovery {
 public:
  Recovery(const DiskShape& shape, RecoveredChunks* result)
      : shape_(shape),
        result_(*result),
        by_key_(result->scan.size()),
        claimed_(shape.capacity_units) {
    by_age_.reserve(result->scan.size());
    result->chunks.reserve(result->scan.size());
  }

  void run() {
    result_.scan.for_each([this](RecoveredChunk& chunk) {
      by_age_.push_back({chunk.sequence, &chunk});
    });
    // The higher slot counts as older, should there ever be two with one number.
    std::sort(by_age_.begin(), by_age_.end(), [](const Aged& a, const Aged& b) {
      return a.sequence != b.sequence ? a.sequence < b.sequence : a.chunk->slot > b.chunk->slot;
    });
    for (auto next = by_age_.rbegin(); next != by_age_.rend(); ++next) claim(next->chunk);
    for (const Aged& next : by_age_) settle(next.chunk);
  }

 private:
  struct Aged {
    std::uint64_t sequence;
    RecoveredChunk* chunk;
  };

  static bool is_settled(const RecoveredChunk& chunk) {
    return chunk.index >= 0 || chunk.entry.state == DiskEntry::State::kDead;
  }

  void drop(RecoveredChunk* chunk, std::int64_t* count) {
    chunk->entry.state = DiskEntry::State::kDead;
    result_.dropped_slots.push_back(chunk->slot);
    ++*count;
  }

  // Newest first, a chunk claims its key and its units; who comes too late is dropped. Even a chunk
  // that turns out to be an orphan keeps its claim: its payload was written over what was there
  // before.
  void claim(RecoveredChunk* chunk) {
    const auto begin = claimed_.begin() + chunk->entry.disk_offset;
    const auto end = begin + chunk->entry.num_units;
    const bool is_overlapped = std::find(begin, end, true) != end;
    std::fill(begin, end, true);
    if (!by_key_.add(chunk)) {
      drop(chunk, &result_.dropped.duplicate);
    } else if (is_overlapped) {
      drop(chunk, &result_.dropped.overlapped);
    }
  }

  // What `chunk` may lie below: nullptr for the first of a prompt, and where nothing fits.
  RecoveredChunk* parent_of(const RecoveredChunk& chunk) {
    if (chunk.entry.span == 0) return nullptr;
    // Mostly it is the one just kept.
    RecoveredChunk* const parent = last_ != nullptr && last_->entry.key == chunk.parent_key
                                       ? last_
                                       : by_key_.find(chunk.parent_key);
    if (parent == nullptr || parent->entry.span + 1 != chunk.entry.span ||
        parent->entry.num_tokens != shape_.chunk_tokens ||
        parent->entry.namespace_digest != chunk.entry.namespace_digest) {
      return nullptr;
    }
    return parent;
  }

  // Keeps the chunk or drops it, after all above it. Spans fall on the way up, so it ends.
  void settle(RecoveredChunk* chunk) {
    way_.clear();
    for (; chunk != nullptr && !is_settled(*chunk); chunk = parent_of(*chunk)) {
      way_.push_back(chunk);
    }
    const RecoveredChunk* parent = chunk;
    for (auto next = way_.rbegin(); next != way_.rend(); ++next) {
      if ((*next)->entry.span == 0 || (parent != nullptr && parent->index >= 0)) {
        keep(*next, parent);
      } else {
        drop(*next, &result_.dropped.orphan);
      }
      parent = *next;
    }
  }

  void keep(RecoveredChunk* chunk, const RecoveredChunk* parent) {
    chunk->index = static_cast<std::int64_t>(result_.chunks.size());
    if (parent != nullptr) {
      chunk->parent_index = parent->index;
      chunk->namespace_index = parent->namespace_index;
    } else {
      chunk->namespace_index = number_of(chunk->entry.namespace_digest);
    }
    result_.chunks.push_back(chunk);
    last_ = chunk;
  }

  std::int32_t number_of(const Digest& name) {
    const auto [found, is_new] =
        namespaces_.emplace(name, static_cast<std::int32_t>(result_.namespaces.size()));
    if (is_new) result_.namespaces.push_back(name);
    return found->second;
  }

  const DiskShape& shape_;
  RecoveredChunks& result_;
  std::vector<Aged, HugePageAllocator<Aged>> by_age_;
  KeyTable by_key_;
  std::vector<bool> claimed_;  // units
  std::vector<RecoveredChunk*> way_;
  RecoveredChunk* last_ = nullptr;  // kept
  std::unordered_map<Digest, std::int32_t, DigestHash> namespaces_;
};

}  // namespace

RecoveredChunks recover(int fd, std::int64_t file_bytes, const DiskShape& shape,
                        const Digest& group_id, const ScanProgress& progress) {
  RecoveredChunks result{HeaderScan(fd, file_bytes, shape, group_id, progress), {}, {}, {}, {}};
  const HeaderScan::Faults& faults = result.scan.faults();
  result.dropped_slots = faults.slots;
  result.dropped.torn = faults.torn;
  result.dropped.foreign = faults.foreign;
  result.dropped.wrong_key = faults.wrong_key;
  result.dropped.cut = faults.cut;
  Recovery(shape, &result).run();
  return result;
}

}  // namespace radixkv
