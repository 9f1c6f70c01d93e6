#include "index/ghost_list.h"

#include <algorithm>

namespace radixkv {

namespace {

constexpr std::size_t kLeastSets = 8;
constexpr std::int64_t kMostSteps = 32;  // 256 times as long
// How fast it learns. ARC's own pace, 10 of 10, follows each wave of what is used but once.
constexpr std::int64_t kPace = 3;
constexpr std::int64_t kPaceOf = 10;

}  // namespace

bool GhostList::note_came(std::uint64_t content) {
  if (is_empty()) return false;
  file_last();
  for (Ghost& ghost : set_of(tag_of(content)).ghosts) {
    if (ghost.tag != tag_of(content) || ghost.when == 0) continue;
    learn((ghost.when & kFound) != 0);
    --count_of(ghost);
    ghost = {};
    return true;
  }
  return false;
}

// The rarer kind counts more, as in ARC: the tier is to have both kinds of ghosts in equal parts.
void GhostList::learn(bool was_found) {
  const std::int64_t own = counts_[was_found ? 1 : 0];
  const std::int64_t other = counts_[was_found ? 0 : 1];
  const auto num_ghosts = static_cast<std::int64_t>(sets_.size() * kInSet);
  const std::int64_t step =
      kWhole / kPaceOf * kPace / num_ghosts * std::max<std::int64_t>(1, other / own);
  room_for_fresh_ =
      std::clamp(room_for_fresh_ + (was_found ? -step : step), std::int64_t{0}, kWhole);
  num_steps_ = static_cast<std::uint32_t>((kWhole - room_for_fresh_) / (kWhole / kMostSteps));
}

// In the place of the one with its tag, or of none, or of the oldest.
void GhostList::put(Ghost ghost) {
  Set& set = set_of(ghost.tag);
  Ghost* place = &set.ghosts[0];
  for (Ghost& other : set.ghosts) {
    if (other.when == 0 || other.tag == ghost.tag) {
      place = &other;
      break;
    }
    if (age(other) > age(*place)) place = &other;
  }
  if (place->when != 0) --count_of(*place);
  ++count_of(ghost);
  *place = ghost;
}

// A quarter more than now, so that a tier that fills does not begin anew for each chunk.
void GhostList::make_table(std::uint64_t num_kept) {
  const std::size_t num_sets =
      std::max<std::size_t>(kLeastSets, (num_kept + num_kept / 4) / kInSet);
  sets_ = {};
  sets_.resize(num_sets);
  counts_ = {0, 0};
  last_ = {};
}

}  // namespace radixkv
