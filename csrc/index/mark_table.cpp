#include "index/mark_table.h"

namespace radixkv {

MarkId MarkTable::find(NodeId node) const {
  const auto found = by_node_.find(node);
  return found == by_node_.end() ? kNoMark : found->second;
}

MarkId MarkTable::add(NodeId node, MarkId above) {
  Mark& mark = marks_[++last_];
  mark.node = node;
  mark.above = above;
  by_node_.emplace(node, last_);
  return last_;
}

void MarkTable::remove(MarkId id) {
  const auto removed = marks_.find(id);
  for (auto& [other, mark] : marks_) {
    if (mark.above == id) mark.above = removed->second.above;
  }
  by_node_.erase(removed->second.node);
  marks_.erase(removed);
  recount();
}

void MarkTable::put_between(MarkId id, MarkId lower) { marks_.at(lower).above = id; }

void MarkTable::remove_from_path(NodeId node) {
  const auto found = num_below_.find(node);
  if (--found->second == 0) num_below_.erase(found);
}

void MarkTable::split(NodeId upper, NodeId lower) {
  const auto found = num_below_.find(lower);
  if (found == num_below_.end()) return;
  const std::uint32_t count = found->second;
  num_below_.emplace(upper, count);
}

std::int32_t MarkTable::priority(MarkId id) const {
  for (; id != kNoMark; id = marks_.at(id).above) {
    if (const auto& priority = marks_.at(id).priority) return *priority;
  }
  return 0;
}

std::optional<std::uint64_t> MarkTable::time_to_live(MarkId id) const {
  for (; id != kNoMark; id = marks_.at(id).above) {
    if (const auto& time = marks_.at(id).time_to_live) return time;
  }
  return std::nullopt;
}

MarkId MarkTable::quota_root(MarkId id, Tier tier) const {
  while (id != kNoMark && !marks_.at(id).quota_units[index_of(tier)]) id = marks_.at(id).above;
  return id;
}

bool MarkTable::is_pinned(MarkId id) const {
  while (id != kNoMark && marks_.at(id).pins.empty()) id = marks_.at(id).above;
  return id != kNoMark;
}

std::uint32_t MarkTable::depth(MarkId id) const {
  std::uint32_t depth = 0;
  for (id = marks_.at(id).above; id != kNoMark; id = marks_.at(id).above) ++depth;
  return depth;
}

std::vector<MarkId> MarkTable::charged_to(MarkId root, Tier tier) const {
  std::vector<MarkId> found;
  for (const auto& [id, mark] : marks_) {
    if (quota_root(id, tier) == root) found.push_back(id);
  }
  return found;
}

void MarkTable::change_units(MarkId id, Tier tier, std::uint64_t by) {
  const std::size_t at = index_of(tier);
  marks_.at(id).own_units[at] += by;
  if (const MarkId root = quota_root(id, tier)) marks_.at(root).charged_units[at] += by;
  if (is_pinned(id)) pinned_units_[at] += by;
}

std::uint64_t MarkTable::room(MarkId root, Tier tier) const {
  const Mark& mark = marks_.at(root);
  const std::uint64_t quota = *mark.quota_units[index_of(tier)];
  const std::uint64_t charged = mark.charged_units[index_of(tier)];
  return quota > charged ? quota - charged : 0;
}

void MarkTable::recount() {
  pinned_units_ = {0, 0};
  for (auto& [id, mark] : marks_) mark.charged_units = {0, 0};
  for (const auto& [id, mark] : marks_) {
    for (const Tier tier : kTiers) {
      const std::size_t at = index_of(tier);
      const MarkId root = quota_root(id, tier);
      if (root != kNoMark) marks_.at(root).charged_units[at] += mark.own_units[at];
      if (is_pinned(id)) pinned_units_[at] += mark.own_units[at];
    }
  }
}

}  // namespace radixkv
