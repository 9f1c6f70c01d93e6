#include "index/ghost_list.h"

#include <algorithm>

namespace radixkv {

namespace {

constexpr std::uint64_t kLeastGhosts = 64;
constexpr std::int64_t kWhole = 1 << 20;
constexpr std::int64_t kMostSteps = 24;  // 64 times as long

}  // namespace

std::uint32_t GhostList::num_steps() const {
  return static_cast<std::uint32_t>((kWhole - room_for_fresh_) * kMostSteps / kWhole);
}

void GhostList::forget(std::unordered_map<std::uint64_t, Ghost>::iterator ghost) {
  --counts_[ghost->second.was_found ? 1 : 0];
  ghosts_.erase(ghost);
}

void GhostList::note_left(std::uint64_t content, bool was_found, std::uint64_t num_kept) {
  if (const auto known = ghosts_.find(content); known != ghosts_.end()) forget(known);
  ghosts_.emplace(content, Ghost{was_found, ++next_number_});
  order_.emplace_back(content, next_number_);
  ++counts_[was_found ? 1 : 0];
  while (order_.size() > std::max(num_kept, kLeastGhosts)) {
    const auto [oldest, number] = order_.front();
    order_.pop_front();
    const auto ghost = ghosts_.find(oldest);
    if (ghost != ghosts_.end() && ghost->second.number == number) forget(ghost);
  }
}

// The rarer kind counts more, as in ARC: the tier is to have both kinds of ghosts in equal parts.
bool GhostList::note_came(std::uint64_t content, std::uint64_t num_kept) {
  const auto ghost = ghosts_.find(content);
  if (ghost == ghosts_.end()) return false;
  const std::int64_t sign = ghost->second.was_found ? 1 : -1;
  const std::int64_t own = counts_[sign > 0 ? 1 : 0];
  const std::int64_t other = counts_[sign > 0 ? 0 : 1];
  const auto kept = static_cast<std::int64_t>(std::max(num_kept, kLeastGhosts));
  const std::int64_t step = std::max<std::int64_t>(1, other / own) * kWhole / kept;
  room_for_fresh_ = std::clamp<std::int64_t>(room_for_fresh_ - sign * step, 0, kWhole);
  forget(ghost);
  return true;
}

}  // namespace radixkv
