#include "index/gram_table.h"

#include <cmath>

namespace radixkv {

namespace {

constexpr double kLeastSlots = 24;
constexpr double kGrowth = 1.5;  // from 80 % full to 53 %

}  // namespace

std::size_t GramTable::spare_slots(std::size_t number) {
  const double phase = static_cast<double>(number) / kNumParts;
  return static_cast<std::size_t>(kLeastSlots * std::pow(kGrowth, phase));
}

GramTable::Part::Part(std::size_t num_entries, std::size_t num_spare)
    : hashes(num_entries * 15 / 8 + num_spare),
      chunks(hashes.size(), kNoChunk),
      ends(hashes.size()) {}

void GramTable::Part::write(std::size_t at, GramPlace place) {
  chunks[at] = place.chunk;
  ends[at] = static_cast<std::uint16_t>(place.age << 10 | (place.end - 1));
}

void GramTable::Part::put(std::uint32_t hash, GramPlace place) {
  std::size_t at = home(hash);
  while (chunks[at] != kNoChunk) at = next(at);
  hashes[at] = hash;
  write(at, place);
  ++num_used;
}

void GramTable::add(std::uint64_t key, GramPlace place) {
  parts_[part_of(key)].put(hash_of(key), place);
}

void GramTable::replace(std::uint64_t key, GramPlace place, GramPlace by) {
  Part& part = parts_[part_of(key)];
  if (part.hashes.empty()) return;
  for (std::size_t at = part.home(hash_of(key)); part.chunks[at] != kNoChunk; at = part.next(at)) {
    if (part.hashes[at] != hash_of(key) || part.place(at) != place) continue;
    part.write(at, by);
    return;
  }
}

std::size_t GramTable::num_entries() const {
  std::size_t sum = 0;
  for (const Part& part : parts_) sum += part.num_used;
  return sum;
}

std::size_t GramTable::num_bytes() const {
  std::size_t sum = sizeof *this + had_more_.size() * 4 * sizeof(std::uint64_t);
  for (const Part& part : parts_) {
    const std::size_t slot_bytes = sizeof(std::uint32_t) + sizeof(ChunkId) + sizeof(std::uint16_t);
    sum += part.hashes.capacity() * slot_bytes;
  }
  return sum;
}

}  // namespace radixkv
