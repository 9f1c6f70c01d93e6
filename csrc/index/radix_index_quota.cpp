// Quotas: whoever is at its limit makes room among its own.
#include <algorithm>
#include <map>

#include "index/radix_index.h"

namespace radixkv {

std::vector<MarkId> RadixIndex::groups_of(std::span<const ChunkId> ids) const {
  std::vector<MarkId> groups;
  if (marks_.empty()) return groups;
  for (const ChunkId id : ids) groups.push_back(chunks_.group(id));
  return groups;
}

// Of each chunk that a reservation is to take. Those that have no record yet are all of one group.
std::vector<MarkId> RadixIndex::groups_of_plan(const Path& path, const Plan& plan) const {
  const ChunkId parent = path.chunks.empty() ? kNoChunk : path.chunks.back();
  std::vector<MarkId> groups(plan.num_units.size(), governor(path.point, parent));
  for (std::size_t i = 0; i < groups.size() && plan.first + i < path.chunks.size(); ++i) {
    groups[i] = chunks_.group(path.chunks[plan.first + i]);
  }
  return groups;
}

// Evicts what the quota of `root` is charged for until it leaves `num_units`, or as far as it can.
void RadixIndex::evict_within(MarkId root, Tier which, std::uint64_t num_units) {
  std::vector<MarkId> groups = marks_.charged_to(root, which);
  std::erase_if(groups, [this](MarkId group) { return marks_.is_pinned(group); });
  const std::uint64_t quota = *marks_[root].quota_units[index_of(which)];
  const std::uint64_t wanted = std::min(num_units, quota);
  const std::uint64_t& charged = marks_[root].charged_units[index_of(which)];
  while (charged + wanted > quota) {
    const ChunkId id = tier(which).leaves.pop(groups, now_);
    if (id == kNoChunk) return;
    if (passed_over(id, which)) continue;
    ++tier(which).num_evicted;
    vacate(id, which);
  }
}

// Makes room for chunks of these groups; without `num_units`, only what is needed to be within the
// quotas again.
void RadixIndex::evict_for_quotas(Tier which, std::span<const MarkId> groups,
                                  std::span<const std::uint16_t> num_units) {
  std::map<MarkId, std::uint64_t> needs;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const MarkId root = marks_.quota_root(groups[i], which);
    if (root != kNoMark) needs[root] += i < num_units.size() ? num_units[i] : 0;
  }
  for (const auto& [root, need] : needs) evict_within(root, which, need);
}

// How many chunks of these groups, from the first, the quotas have room for.
std::size_t RadixIndex::count_within_quotas(Tier which, std::span<const MarkId> groups,
                                            std::span<const std::uint16_t> num_units) const {
  std::map<MarkId, std::uint64_t> taken;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const MarkId root = marks_.quota_root(groups[i], which);
    if (root == kNoMark) continue;
    taken[root] += num_units[i];
    if (taken[root] > marks_.room(root, which)) return i;
  }
  return num_units.size();
}

// The pin keeps the path that is to be extended from leaving for it.
void RadixIndex::make_quota_room(NamespaceId space, const TokenView& tokens, bool tail) {
  if (marks_.empty()) return;
  const Path path = walk(space, tokens);
  const Plan plan = plan_reserve(space, tokens, path, tail);
  const std::vector<MarkId> groups = groups_of_plan(path, plan);
  if (count_within_quotas(Tier::kMemory, groups, plan.num_units) == groups.size()) return;
  const Pin pin = acquire(space, tokens, std::nullopt);
  evict_for_quotas(Tier::kMemory, groups, plan.num_units);
  release(pin);
}

void RadixIndex::cut_to_quotas(const Path& path, Plan& plan) const {
  if (marks_.empty()) return;
  const std::size_t num_allowed =
      count_within_quotas(Tier::kMemory, groups_of_plan(path, plan), plan.num_units);
  if (num_allowed == plan.num_units.size()) return;
  plan.num_units.resize(num_allowed);
  plan.end = static_cast<std::uint32_t>(plan.first + num_allowed) * span_tokens();
}

// A quota of 0 keeps a subtree off the disk.
bool RadixIndex::may_be_on_disk(ChunkId id) const {
  const MarkId root = marks_.quota_root(chunks_.group(id), Tier::kDisk);
  return root == kNoMark || *marks_[root].quota_units[index_of(Tier::kDisk)] > 0;
}

void RadixIndex::queue_spills_below(NamespaceId space, const TokenView& prefix) {
  const Point point = walk(space, prefix).point;
  if (point.position < prefix.size()) return;
  std::vector<ChunkId> below;
  collect(point.node, point.position, below);
  for (const ChunkId id : below) queue_spill(id);
}

}  // namespace radixkv
