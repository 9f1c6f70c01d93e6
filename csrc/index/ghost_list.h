// GhostList remembers what left a tier, and learns from what comes back.
//
//   came back, and had never been found again   ─▶  what is fresh gets more room
//   came back, and had been found again         ─▶  what is fresh gets less
//
// Those are ARC's two lists of ghosts and its one number. What it means is another thing here,
// since only the leaves of a tier are in order: not sizes, but how much longer what was found once
// may be idle than what was not, from as long (all the room) to 256 times as long (none).
//
//   sets   [ tag when | tag when | … 8 ]      64 bytes, found by the tag: one cache line a call
//
// A ghost is a hash of a chunk's tokens and place: a wrong one costs a step in the wrong direction,
// no more. One chunk in sixteen is followed, by its last token: a cold set costs as much as the
// rest of an eviction. Of those about as many are remembered as the tier has: the oldest of a set
// makes room. A tier that has grown by much begins anew. Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/huge_pages.h"
#include "core/types.h"

namespace radixkv {

class GhostList {
 public:
  // `most_kept`: chunks that the tier will have at most, 0 where that is not known. Room for as
  // many ghosts is made now, where nobody waits.
  explicit GhostList(std::uint64_t most_kept = 0) {
    if (most_kept > 0) make_table(most_kept / kSampled);
  }

  // Whether the lists are to be told of a chunk that ends with this token.
  static bool is_sampled(Token last) { return (last * 0x9E3779B9u) >> (32 - kSampledBits) == 0; }

  bool is_empty() const { return counts_[0] + counts_[1] == 0 && last_.when == 0; }

  // A chunk left. `num_kept`: chunks that the tier has.
  void note_left(std::uint64_t content, bool was_found, std::uint64_t num_kept) {
    num_kept /= kSampled;
    if (num_kept > sets_.size() * kInSet || sets_.empty()) make_table(num_kept);
    file_last();
    next_number_ = next_number_ == kFound - 1 ? 1 : next_number_ + 1;
    last_ = {tag_of(content), next_number_ | (was_found ? kFound : 0)};
    __builtin_prefetch(&set_of(last_.tag), 1);
  }
  // A chunk comes. True where it is remembered: it has been asked for again after all.
  bool note_came(std::uint64_t content);

  // How much heavier what was found once is than what was not, in steps of weight.
  std::uint32_t num_steps() const { return num_steps_; }

 private:
  struct Ghost {
    std::uint32_t tag;
    std::uint32_t when;  // its number, and in the highest bit whether it was found; 0 for none
  };
  static constexpr int kSampledBits = 4;
  static constexpr std::uint64_t kSampled = 1u << kSampledBits;  // one in so many
  static constexpr std::size_t kInSet = 8;
  struct alignas(64) Set {
    std::array<Ghost, kInSet> ghosts;
  };
  static constexpr std::uint32_t kFound = 1u << 31;
  static constexpr std::int64_t kWhole = std::int64_t{1} << 40;

  static std::uint32_t tag_of(std::uint64_t content) { return static_cast<std::uint32_t>(content); }
  void file_last() {
    if (last_.when != 0) put(std::exchange(last_, {}));
  }
  Set& set_of(std::uint32_t tag) { return sets_[std::uint64_t{tag} * sets_.size() >> 32]; }
  std::uint32_t age(const Ghost& ghost) const { return (next_number_ - ghost.when) & ~kFound; }
  std::int64_t& count_of(const Ghost& ghost) { return counts_[(ghost.when & kFound) != 0 ? 1 : 0]; }
  void put(Ghost ghost);
  void make_table(std::uint64_t num_kept);
  void learn(bool was_found);

  std::vector<Set, HugePageAllocator<Set>> sets_;
  std::array<std::int64_t, 2> counts_ = {0, 0};  // of ghosts, by whether they were found
  Ghost last_ = {};  // what left last: filed with the next, when its set has come from memory
  std::uint32_t next_number_ = 0;                 // 1 … 2^31 - 1
  std::int64_t room_for_fresh_ = kWhole / 5 * 4;  // ARC's p, of its c
  std::uint32_t num_steps_ = 6;
};

}  // namespace radixkv
