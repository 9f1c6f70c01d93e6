// GhostList remembers what left a tier, and learns from what comes back.
//
//   came back, and had never been found again   ─▶  what is fresh gets more room
//   came back, and had been found again         ─▶  what is fresh gets less
//
// Those are ARC's two lists of ghosts and its one number. What it means is another thing here,
// since only the leaves of a tier are in order: not sizes, but how much longer what was found again
// may be idle than what was not, from as long (all the room) to 64 times as long (none, as at the
// start). A ghost is a hash of a chunk's tokens and place: a wrong one costs a step in the wrong
// direction, no more. As many are remembered as the tier has chunks. Thread safety: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>

namespace radixkv {

class GhostList {
 public:
  // A chunk left, or comes. `num_kept`: chunks that the tier has.
  void note_left(std::uint64_t content, bool was_found, std::uint64_t num_kept);
  // True where it is remembered: it has been asked for again after all.
  bool note_came(std::uint64_t content, std::uint64_t num_kept);

  // How much heavier what was found again is than what was not, in steps of weight.
  std::uint32_t num_steps() const;

 private:
  struct Ghost {
    bool was_found;
    std::uint64_t number;
  };

  void forget(std::unordered_map<std::uint64_t, Ghost>::iterator ghost);

  std::unordered_map<std::uint64_t, Ghost> ghosts_;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> order_;  // contents with their numbers
  std::array<std::int64_t, 2> counts_ = {0, 0};                // by whether they were found
  std::uint64_t next_number_ = 0;
  std::int64_t room_for_fresh_ = 0;  // 0 … kWhole: ARC's p, of its c
};

}  // namespace radixkv
