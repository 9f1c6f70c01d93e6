// GramTable says where grams are kept: the key of a gram ─▶ chunks, and how far into them it ends.
//
//   256 parts by the key's top bits, each an open-addressed table that grows by itself:
//     hashes  [ 4 bytes | 4 | 4 | … ]      the 32 bits below: the slot's home, and all that a miss
//     chunks  [ 4 bytes | … ]              reads
//     ends    [ 2 bytes | … ]              tokens of the chunk up to the gram's end; its age
//
// 10 bytes an entry, of which a part is 53 to 80 % full. Entries of chunks that have gone stay
// until the part is filed anew; whoever looks asks the chunk. Of one gram at most kMostPlaces are
// kept, and it is remembered that there were more. Thread safety: reads may run beside each other,
// a write needs the table alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_set>
#include <vector>

#include "index/chunk_table.h"

namespace radixkv {

struct GramPlace {
  ChunkId chunk = kNoChunk;
  std::uint16_t end = 0;  // 1 … 512
  std::uint16_t age = 0;  // the low bits of the chunk's generation

  static std::uint16_t age_of(std::uint32_t generation) { return generation & 63; }
  bool operator==(const GramPlace&) const = default;
};

class GramTable {
 public:
  static constexpr std::size_t kMostPlaces = 256;
  static constexpr std::size_t kNumParts = 256;

  // Calls `visit(place)` for each place of the gram until it returns false.
  template <class Visit>
  void for_each(std::uint64_t key, Visit visit) const {
    const Part& part = parts_[part_of(key)];
    if (part.hashes.empty()) return;
    for (std::size_t at = part.home(hash_of(key)); part.chunks[at] != kNoChunk;
         at = part.next(at)) {
      if (part.hashes[at] == hash_of(key) && !visit(part.place(at))) return;
    }
  }

  // There were, once, more places than are kept.
  bool had_more(std::uint64_t key) const { return had_more_.contains(key >> 24); }
  void note_more(std::uint64_t key) { had_more_.insert(key >> 24); }

  // REQUIRES: the part has room (needs_room() is false), the place is not there.
  void add(std::uint64_t key, GramPlace place);

  // The entry of one chunk becomes another's, if it is there.
  void replace(std::uint64_t key, GramPlace place, GramPlace by);

  bool needs_room(std::uint64_t key) const { return parts_[part_of(key)].is_full(); }

  static std::size_t part_of(std::uint64_t key) { return key >> 56; }

  // Files a part anew with the places that `is_alive(place)`, and with room for more.
  template <class IsAlive>
  void refile(std::size_t number, IsAlive is_alive) {
    Part& part = parts_[number];
    std::vector<std::size_t> alive;
    for (std::size_t at = 0; at < part.hashes.size(); ++at) {
      if (part.chunks[at] != kNoChunk && is_alive(part.place(at))) alive.push_back(at);
    }
    Part fresh(alive.size(), spare_slots(number));
    for (const std::size_t at : alive) fresh.put(part.hashes[at], part.place(at));
    part = std::move(fresh);
  }

  std::size_t num_entries() const;
  std::size_t num_bytes() const;

 private:
  struct Part {
    std::vector<std::uint32_t> hashes;
    std::vector<ChunkId> chunks;
    std::vector<std::uint16_t> ends;
    std::size_t num_used = 0;

    Part() = default;
    Part(std::size_t num_entries, std::size_t num_spare);

    std::size_t home(std::uint32_t hash) const { return std::uint64_t{hash} * hashes.size() >> 32; }
    std::size_t next(std::size_t at) const { return at + 1 < hashes.size() ? at + 1 : 0; }
    bool is_full() const { return num_used * 5 >= hashes.size() * 4; }
    GramPlace place(std::size_t at) const {
      return {chunks[at], static_cast<std::uint16_t>((ends[at] & 1023) + 1),
              static_cast<std::uint16_t>(ends[at] >> 10)};
    }
    void write(std::size_t at, GramPlace place);
    void put(std::uint32_t hash, GramPlace place);
  };

  // Parts fill alike. So that they do not all become full at once, and hold up what is filed then,
  // they begin with different sizes, and keep the ratio when they grow.
  static std::size_t spare_slots(std::size_t number);

  static std::uint32_t hash_of(std::uint64_t key) { return static_cast<std::uint32_t>(key >> 24); }

  std::array<Part, kNumParts> parts_;
  std::unordered_set<std::uint64_t> had_more_;
};

}  // namespace radixkv
