// MarkTable keeps what callers have said about subtrees: priority, time to live, quota, pins.
//
//   root ── "You are a helpful…" ●1 ──┬── "tenant A…" ●2 ── …    a mark lies at a node's end
//                                     └── "tenant B…" ── …       and governs all chunks that
//                                                                reach it, now or later
//
// The deepest mark above a chunk governs it. What that mark is silent about, the next one above
// says. A chunk has its mark's number (ChunkTable::group), 0 where none governs it, so the table
// costs nothing where nothing is marked. Thread safety: as the index that owns it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "index/chunk_table.h"

namespace radixkv {

using MarkId = std::uint32_t;  // in the order in which marks are made; never used again

inline constexpr MarkId kNoMark = 0;
// The end of a pin that has none.
inline constexpr std::uint64_t kForever = 0xFFFFFFFFFFFFFFFFull;

struct Mark {
  NodeId node = kNoNode;
  MarkId above = kNoMark;
  std::optional<std::int32_t> priority;
  std::optional<std::uint64_t> time_to_live;
  std::array<std::optional<std::uint64_t>, kNumTiers> quota_units;
  std::map<std::string, std::uint64_t> pins;  // owner → when it ends
  // Units of the chunks that this very mark governs, and of all that its quota is charged for.
  std::array<std::uint64_t, kNumTiers> own_units = {0, 0};
  std::array<std::uint64_t, kNumTiers> charged_units = {0, 0};

  bool is_silent() const {
    return !priority && !time_to_live && !quota_units[0] && !quota_units[1] && pins.empty();
  }
};

class MarkTable {
 public:
  bool empty() const { return marks_.empty(); }
  const std::map<MarkId, Mark>& all() const { return marks_; }
  const Mark& operator[](MarkId id) const { return marks_.at(id); }

  // The mark at the end of this node, or kNoMark.
  MarkId at(NodeId node) const { return by_node_.empty() ? kNoMark : find(node); }
  // Whether a mark lies at the end of this node or below it.
  bool is_on_path(NodeId node) const { return num_below_.contains(node); }

  // Makes a silent mark, below `above`, which governs nothing yet.
  MarkId add(NodeId node, MarkId above);
  // REQUIRES: it governs no chunk. The marks below it are below the one above it now.
  void remove(MarkId id);
  // `id` lies between `lower` and the mark above that.
  void put_between(MarkId id, MarkId lower);

  // Changes what a mark says.
  template <class Change>
  void change(MarkId id, Change change) {
    change(marks_.at(id));
    recount();
  }

  // Nodes on the way to a mark: one for each mark that lies below or at their end.
  void add_to_path(NodeId node) { ++num_below_[node]; }
  void remove_from_path(NodeId node);
  // `upper` is the first part of what `lower` was.
  void split(NodeId upper, NodeId lower);
  void forget(NodeId node) { num_below_.erase(node); }

  // What holds for the chunks that `id` governs; of kNoMark: 0, none, none, no.
  std::int32_t priority(MarkId id) const;
  std::optional<std::uint64_t> time_to_live(MarkId id) const;
  MarkId quota_root(MarkId id, Tier tier) const;
  bool is_pinned(MarkId id) const;
  std::uint32_t depth(MarkId id) const;  // number of marks above

  // The marks whose chunks the quota of `root` is charged for.
  std::vector<MarkId> charged_to(MarkId root, Tier tier) const;

  // A chunk that `id` governs got an extent on the tier, or lost it.
  void charge(MarkId id, Tier tier, std::uint32_t num_units) {
    if (id != kNoMark) change_units(id, tier, num_units);
  }
  void discharge(MarkId id, Tier tier, std::uint32_t num_units) {
    if (id != kNoMark) change_units(id, tier, -std::uint64_t{num_units});
  }
  // Units that pinned subtrees have on the tier.
  std::uint64_t pinned_units(Tier tier) const { return pinned_units_[index_of(tier)]; }
  // Units that the quota of `root` leaves. REQUIRES: it has one.
  std::uint64_t room(MarkId root, Tier tier) const;

 private:
  MarkId find(NodeId node) const;
  // `by` may be less than nothing, in two's complement.
  void change_units(MarkId id, Tier tier, std::uint64_t by);
  // Sums up anew who is charged and what is pinned.
  void recount();

  std::map<MarkId, Mark> marks_;
  std::unordered_map<NodeId, MarkId> by_node_;
  std::unordered_map<NodeId, std::uint32_t> num_below_;
  std::array<std::uint64_t, kNumTiers> pinned_units_ = {0, 0};
  MarkId last_ = kNoMark;
};

}  // namespace radixkv
