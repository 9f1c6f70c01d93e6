// Marking subtrees: what was said about a prefix, which chunks that governs, and when it ends.
#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

// The mark that governs what ends at `point` and lies behind `parent`, whose own is known already
// (kNoChunk: look all the way up). A mark governs what reaches its node's end.
MarkId RadixIndex::governor(Point point, ChunkId parent) const {
  if (marks_.empty()) return kNoMark;
  for (NodeId node = point.node; node != kNoNode; node = tree_[node].parent) {
    if (tree_[node].end() <= point.position) {
      if (const MarkId mark = marks_.at(node)) return mark;
    }
    if (parent != kNoChunk && tree_[node].start < chunks_.end(parent)) return chunks_.group(parent);
  }
  return kNoMark;
}

// The queues of leaves, and what the tiers' units are charged to, follow.
void RadixIndex::set_group(ChunkId id, MarkId group) {
  const MarkId before = chunks_.group(id);
  std::array<bool, kNumTiers> queued = {false, false};
  for (const Tier which : kTiers) {
    queued[index_of(which)] = chunks_.has(id, state::queued(which));
    tier(which).leaves.forget(id);
    if (!chunks_.has(id, state::kept(which))) continue;
    marks_.discharge(before, which, chunks_[id].num_units);
    marks_.charge(group, which, chunks_[id].num_units);
  }
  chunks_.set_group(id, group);
  for (const Tier which : kTiers) {
    if (queued[index_of(which)]) tier(which).leaves.push(id);
  }
}

MarkId RadixIndex::find_mark(NamespaceId space, const TokenView& prefix) const {
  if (marks_.empty()) return kNoMark;
  const Point point = walk(space, prefix).point;
  const bool ends_there =
      point.position == prefix.size() && tree_[point.node].end() == point.position;
  return ends_there ? marks_.at(point.node) : kNoMark;
}

// Finds or makes the mark of a prefix. Where the tree does not have all of its tokens, they come
// into it with blank records.
MarkId RadixIndex::make_mark(NamespaceId space, const TokenView& prefix) {
  Path path = walk(space, prefix);
  const auto end = static_cast<std::uint32_t>(prefix.size());
  if (path.point.position < end) {
    const TokenRun fresh(arena_, prefix, path.point.position, end - path.point.position);
    grow(path, fresh, path.chunks.empty() ? kNoChunk : path.chunks.back());
  }
  NodeId node = path.point.node;
  if (end < tree_[node].end()) node = split(node, end);
  if (const MarkId known = marks_.at(node)) return known;
  const MarkId above = governor({node, end}, kNoChunk);
  chunks_.use_groups();
  const MarkId id = marks_.add(node, above);
  for (NodeId at = node; at != kNoNode; at = tree_[at].parent) marks_.add_to_path(at);
  for (const auto& [other, mark] : marks_.all()) {
    if (mark.above != above || other == id) continue;
    NodeId at = mark.node;
    while (at != kNoNode && at != node) at = tree_[at].parent;
    if (at == node) marks_.put_between(id, other);
  }
  std::vector<ChunkId> governed;
  collect(node, end, governed);
  for (const ChunkId chunk : governed) {
    if (chunks_.group(chunk) == above) set_group(chunk, id);
  }
  return id;
}

// Takes out a mark that says nothing, with what only it kept in the tree.
void RadixIndex::remove_if_silent(MarkId id) {
  const Mark mark = marks_[id];
  if (!mark.is_silent()) return;
  std::vector<ChunkId> governed;
  collect(mark.node, tree_[mark.node].end(), governed);
  for (const ChunkId chunk : governed) {
    if (chunks_.group(chunk) == id) set_group(chunk, mark.above);
  }
  marks_.remove(id);
  for (TierState& tier : tiers_) tier.leaves.remove_group(id);
  if (marks_.empty()) chunks_.forget_groups();

  NodeId node = mark.node;
  for (NodeId at = node; at != kNoNode; at = tree_[at].parent) marks_.remove_from_path(at);
  while (num_full(node) == 0 && tree_[node].parent != kNoNode) node = tree_[node].parent;
  ChunkId chunk =
      num_full(node) == 0 ? kNoChunk : full_chunk(node, tree_[node].end() / span_tokens() - 1);
  trim(mark.node);
  constexpr std::uint8_t kAnyTier = state::kept(Tier::kMemory) | state::kept(Tier::kDisk);
  while (chunk != kNoChunk && !chunks_.has(chunk, kAnyTier) && !is_pinned(chunk) &&
         !marks_.is_on_path(chunks_.node(chunk))) {
    const ChunkId parent = chunks_[chunk].parent;
    remove(chunk);
    chunk = parent;
  }
}

// `takes_back`: nothing is said, so that no mark has to be made for it.
void RadixIndex::change_mark(NamespaceId space, const TokenView& prefix, bool takes_back,
                             const std::function<void(Mark&)>& change) {
  const MarkId id = takes_back ? find_mark(space, prefix) : make_mark(space, prefix);
  if (id == kNoMark) return;
  marks_.change(id, change);
  record(0x70, id, takes_back ? 1 : 0);
  note_mark(id);
  remove_if_silent(id);
}

void RadixIndex::set_priority(NamespaceId space, const TokenView& prefix,
                              std::optional<std::int32_t> priority) {
  change_mark(space, prefix, !priority, [&](Mark& mark) { mark.priority = priority; });
}

void RadixIndex::set_time_to_live(NamespaceId space, const TokenView& prefix,
                                  std::optional<std::uint64_t> time_to_live) {
  change_mark(space, prefix, !time_to_live, [&](Mark& mark) { mark.time_to_live = time_to_live; });
}

void RadixIndex::set_quota(NamespaceId space, const TokenView& prefix, Tier tier,
                           std::optional<std::uint64_t> num_units) {
  change_mark(space, prefix, !num_units,
              [&](Mark& mark) { mark.quota_units[index_of(tier)] = num_units; });
  if (num_units) evict_within(find_mark(space, prefix), tier, 0);
  if (tier == Tier::kDisk) queue_spills_below(space, prefix);  // some may be written there now
}

std::uint64_t RadixIndex::most_pinned_units(Tier tier) const {
  return static_cast<std::uint64_t>(config_.max_pinned * config_.num_units[index_of(tier)]);
}

void RadixIndex::require_pin_fits(const Path& path, const TokenView& prefix) const {
  std::vector<ChunkId> below;
  if (path.point.position == prefix.size()) collect(path.point.node, path.point.position, below);
  for (const Tier which : kTiers) {
    std::uint64_t num_units = marks_.pinned_units(which);
    for (const ChunkId id : below) {
      const bool counts =
          chunks_.has(id, state::kept(which)) && !marks_.is_pinned(chunks_.group(id));
      if (counts) num_units += chunks_[id].num_units;
    }
    if (num_units <= most_pinned_units(which)) continue;
    throw PinLimitError("pin: expected at most " + std::to_string(most_pinned_units(which)) +
                        " units of " + (which == Tier::kMemory ? "memory" : "disk") +
                        " to be pinned, max_pinned of it, got " + std::to_string(num_units));
  }
}

void RadixIndex::pin(NamespaceId space, const TokenView& prefix, const std::string& owner,
                     std::optional<std::uint64_t> until) {
  require_pin_fits(walk(space, prefix), prefix);
  change_mark(space, prefix, false,
              [&](Mark& mark) { mark.pins[owner] = until.value_or(kForever); });
}

bool RadixIndex::unpin(NamespaceId space, const TokenView& prefix, const std::string& owner) {
  const MarkId id = find_mark(space, prefix);
  if (id == kNoMark || !marks_[id].pins.contains(owner)) return false;
  change_mark(space, prefix, true, [&](Mark& mark) { mark.pins.erase(owner); });
  return true;
}

// Ends pins of one owner, or else all whose time has come.
std::size_t RadixIndex::end_pins(const std::string* owner, std::uint64_t now) {
  std::size_t num_ended = 0;
  std::vector<MarkId> ids;
  for (const auto& [id, mark] : marks_.all()) ids.push_back(id);
  for (const MarkId id : ids) {
    const auto ends = [&](const auto& pin) {
      return owner != nullptr ? pin.first == *owner : pin.second <= now;
    };
    if (std::ranges::none_of(marks_[id].pins, ends)) continue;
    marks_.change(id, [&](Mark& mark) { num_ended += std::erase_if(mark.pins, ends); });
    record(0x71, id, now);
    note_mark(id);
    remove_if_silent(id);
  }
  return num_ended;
}

std::size_t RadixIndex::unpin_all(const std::string& owner) { return end_pins(&owner, clock_); }

// Deeper marks go first: what leaves may leave a leaf of the mark above behind.
Expired RadixIndex::advance(std::uint64_t now) {
  Expired expired;
  clock_ = std::max(clock_, now);
  if (marks_.empty()) return expired;
  end_pins(nullptr, clock_);
  std::set<std::pair<std::int64_t, MarkId>> mortal;
  for (const auto& [id, mark] : marks_.all()) {
    const auto time_to_live = marks_.time_to_live(id);
    const bool can_expire = time_to_live && *time_to_live <= clock_ && !marks_.is_pinned(id);
    if (can_expire) mortal.emplace(-static_cast<std::int64_t>(marks_.depth(id)), id);
  }
  for (const Tier which : kTiers) {
    for (const auto& [depth, group] : mortal) {
      const std::uint64_t last = clock_ - *marks_.time_to_live(group);
      while (true) {
        const ChunkId id = tier(which).leaves.pop_idle(group, last);
        if (id == kNoChunk) break;
        if (passed_over(id, which)) continue;
        expired.chunks[index_of(which)].push_back(ref(id));
        vacate(id, which);
      }
    }
  }
  return expired;
}

// The groups whose leaves may be evicted. What is pinned is among them only where it has more than
// its share of the tier.
std::vector<MarkId> RadixIndex::evictable_groups(Tier tier) const {
  std::vector<MarkId> groups = {kNoMark};
  const bool pins_hold = marks_.pinned_units(tier) <= most_pinned_units(tier);
  for (const auto& [id, mark] : marks_.all()) {
    if (!pins_hold || !marks_.is_pinned(id)) groups.push_back(id);
  }
  return groups;
}

MarkValues RadixIndex::mark_values(const Mark& mark) const {
  MarkValues values;
  values.priority = mark.priority;
  values.time_to_live = mark.time_to_live;
  values.quota_units = mark.quota_units;
  values.charged_units = mark.charged_units;
  values.pins = {mark.pins.begin(), mark.pins.end()};
  values.prefix.resize(tree_[mark.node].end());
  NodeId node = mark.node;
  for (; tree_[node].parent != kNoNode; node = tree_[node].parent) {
    const Node& here = tree_[node];
    std::copy_n(here.run.data(), here.run.size(), values.prefix.data() + here.start);
  }
  values.digest = roots_[root_by_node_.at(node)].second;
  return values;
}

std::vector<MarkValues> RadixIndex::marks() const {
  std::vector<MarkValues> result;
  for (const auto& [id, mark] : marks_.all()) result.push_back(mark_values(mark));
  return result;
}

void RadixIndex::check_marks(const std::vector<ChunkId>& all) const {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw std::logic_error("index: " + what);
  };
  for (const auto& [id, mark] : marks_.all()) {
    const std::string name = "mark " + std::to_string(id);
    require(!mark.is_silent(), name + " says nothing");
    require(marks_.at(mark.node) == id, name + " is not at its node");
    for (NodeId at = mark.node; at != kNoNode; at = tree_[at].parent) {
      require(marks_.is_on_path(at), name + " is not known to a node above");
    }
    const NodeId up = tree_[mark.node].parent;
    const MarkId above = up == kNoNode ? kNoMark : governor({up, tree_[up].end()}, kNoChunk);
    require(mark.above == above, name + " does not know the mark above");
    for (const Tier tier : kTiers) {
      std::uint64_t num_units = 0;
      std::uint64_t num_charged = 0;
      for (const ChunkId chunk : all) {
        if (!chunks_.has(chunk, state::kept(tier))) continue;
        const MarkId group = chunks_.group(chunk);
        if (group == id) num_units += chunks_[chunk].num_units;
        if (marks_.quota_root(group, tier) == id) num_charged += chunks_[chunk].num_units;
      }
      require(num_units == mark.own_units[index_of(tier)], name + " miscounts its units");
      require(num_charged == mark.charged_units[index_of(tier)], name + " miscounts its charge");
    }
  }
}

}  // namespace radixkv
