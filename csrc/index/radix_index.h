// RadixIndex knows which tokens are kept, in which chunk, on which tier. It moves no bytes.
//
//   token tree   finds:      root ── "You are a…" ──┬── "What is…"
//                                                   └── "Write a…"
//   chunk trie   lives:      [0,64) ◀─ [64,128) ◀─ … ◀─ [1856,1920)      each names its parent
//   tiers                    absent ──reserve──▶ writing ──complete──▶ ready ──evict──▶ absent
//
// A chunk's record lies at the node that holds its last token. Along a path the records have no
// gap: where a node holds the end of a span, the chunk that ends there exists.
//
// Subtrees may be marked (index/mark_table.h). A mark keeps its prefix in the token tree, with
// blank records, so that it governs what is stored there later; no match sees those.
//
// Two kinds of hold. A *pin* (of a handle) covers a path and keeps its chunks from eviction. A
// *use* (of a command) covers one extent of one tier until the command's completion. A chunk that
// must go while a command uses its extent leaves the extent *in limbo*: out of service until the
// use ends.
//
// What happens depends on the calls alone (no clock, no random number, no address), so replicas
// that see the same calls agree; state_hash() compares them.
//
// Errors: a caller's mistake is std::invalid_argument and changes nothing. A completion of a chunk
// that has gone meanwhile is no mistake. Thread safety: const calls may run beside each other, any
// other call needs the index alone.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/chunk_key.h"
#include "core/types.h"
#include "index/change_log.h"
#include "index/chunk_table.h"
#include "index/event_log.h"
#include "index/extent_allocator.h"
#include "index/index_values.h"
#include "index/leaf_order.h"
#include "index/mark_table.h"
#include "index/token_tree.h"
#include "index/tokens.h"

namespace radixkv {

class IndexFile;
class RunFinder;
class SavedIndex;

class RadixIndex {
 public:
  explicit RadixIndex(const IndexConfig& config);
  ~RadixIndex();
  RadixIndex(const RadixIndex&) = delete;
  RadixIndex& operator=(const RadixIndex&) = delete;

  const IndexConfig& config() const { return config_; }

  // Finds or makes the tree of a namespace. 0 is there from the start: the digest of 16 zero bytes.
  NamespaceId find_namespace(const NamespaceDigest& digest);

  // --- Reading (radix_index_match.cpp) ---

  Match match(NamespaceId space, const TokenView& tokens) const;

  // The slices of a match, as the tiers are now; empty once its last chunk has gone.
  std::vector<ChunkRef> slices(const Match& match) const;
  std::vector<ChunkRef> slices(const Pin& pin) const;

  // How much of a pin's path is ready in memory now, counted from the front.
  std::uint32_t num_memory_tokens(const Pin& pin) const;

  // --- Holding (radix_index_hold.cpp) ---

  // Matches and pins. `time`, if given, is the admission that uses the match.
  Pin acquire(NamespaceId space, const TokenView& tokens, std::optional<std::uint64_t> time);
  void release(const Pin& pin);
  void touch(const Pin& pin, std::uint64_t time);

  // Slices of [first_token, first_token + num_tokens) in memory, one use on each. Throws where the
  // range is not in the pin or not all ready in memory.
  std::vector<ChunkRef> use(const Pin& pin, std::uint32_t first_token, std::uint32_t num_tokens);
  void release_uses(std::span<const ChunkRef> slices);

  // --- Keeping (radix_index_reserve.cpp, radix_index_disk.cpp) ---

  // Takes memory for the chunks of `tokens` that memory does not keep, from the front, as far as
  // there is room: state writing, one use each. `tail`: also the last, shorter chunk, unless a
  // ready chunk has all but `tail_slack` of its tokens.
  Reservation reserve(NamespaceId space, const TokenView& tokens, std::uint64_t time, bool tail);
  void complete_store(std::span<const ChunkRef> chunks, std::size_t num_ok);

  // reserve() and complete_store() at once, evicting as needed. Returns the number of chunks added.
  std::size_t insert(NamespaceId space, const TokenView& tokens, std::uint64_t time);

  // The next chunks to write to disk: of one path, parents first, at most `max_chunks`.
  SpillReservation reserve_spill(std::size_t max_chunks);
  // `retry`: those that failed may be spilled again later.
  void complete_spill(std::span<const ChunkRef> chunks, std::size_t num_ok, bool retry);

  // Chunks that left the disk, where their headers still are in the way: so many that the headers
  // suffice for all that is on disk now. Whoever writes there clears them first. `all`: every one
  // whose header may still be there, which a restart would find.
  std::vector<ChunkRef> take_remains(bool all);

  // Takes memory for the chunks of a pin that are ready on disk and absent in memory, parents
  // first.
  Reservation reserve_fetch(const Pin& pin, std::size_t max_chunks);
  // `corrupt`: the chunk at `num_ok` is bad on disk and leaves it, with all below it there.
  void complete_fetch(std::span<const ChunkRef> chunks, std::size_t num_ok, bool corrupt);

  // Puts the chunks of a reopened disk into the index, ready there. Throws, changing nothing, where
  // they contradict themselves or the disk is not empty. Of equal chunks the first counts.
  void restore_disk(const RestoredChunks& restored);

  // --- Remote tiers (radix_index_keys.cpp). They are not the index's: it only names chunks. ---

  // As far as memory still has these chunks of one path, from the first: one use on each, which
  // release_uses() ends.
  PutReservation reserve_put(std::span<const ChunkRef> chunks);

  // The content key (core/chunk_key.h) of the chunk before this one; the root's before the first.
  // Throws where the chunk has gone.
  Digest parent_key(const ChunkRef& chunk);

  // The content key of the last chunk that a pin covers whole; the root's where there is none.
  Digest prefix_key(NamespaceId space, const Pin& pin);

  // --- Leaving (radix_index_leave.cpp) ---

  // Pops leaves in the policy's order until their extents add up to `num_units`; returns what left.
  std::vector<ChunkRef> evict(Tier tier, std::uint64_t num_units);

  // evict() of the disk for what reserve_spill() gives next: never what that is written below.
  std::vector<ChunkRef> evict_for_spill(std::uint64_t num_units);

  // Drops every chunk whose path begins with `prefix`: invisible at once; what is pinned leaves
  // when the last pin ends, what is used leaves its extent in limbo. Returns them, parents first.
  std::vector<ChunkRef> drop(NamespaceId space, const TokenView& prefix);

  // What begins with `prefix` and is ready on disk too leaves memory, children before their
  // parents, but for what a handle pins or a command uses, and what leads there. Returns how many
  // chunks did.
  std::size_t demote(NamespaceId space, const TokenView& prefix);

  // Everything that no pin holds leaves memory. Returns how many chunks did.
  std::size_t clear_memory();

  // drop() of everything in every namespace.
  std::vector<ChunkRef> clear_all();

  // --- Marking (radix_index_marks.cpp). A subtree is all chunks, kept now or stored later, whose
  // path begins with `prefix`; an empty one means the whole namespace. What the deepest prefix
  // says counts. nullopt takes back what was said. ---

  // The lower one leaves first; 0 where nothing was said.
  void set_priority(NamespaceId space, const TokenView& prefix,
                    std::optional<std::int32_t> priority);

  // What has not been used for so long, in the unit of `time`, leaves with the next advance().
  void set_time_to_live(NamespaceId space, const TokenView& prefix,
                        std::optional<std::uint64_t> time_to_live);

  // What the subtree may have on the tier, less what lies under a deeper quota. At the limit its
  // own leaves go first. What a spill writes may pass the disk's until the call after; with 0
  // nothing is spilled.
  void set_quota(NamespaceId space, const TokenView& prefix, Tier tier,
                 std::optional<std::uint64_t> num_units);

  // The subtree is not evicted, nor does its time run out, nor its quota push it out, until the
  // owner unpins it or advance() comes to `until`. drop() and clear_…() take it all the same.
  // Throws PinLimitError where it has more than its share of a tier; where it comes to have more
  // later, its leaves go like others until it has not.
  void pin(NamespaceId space, const TokenView& prefix, const std::string& owner,
           std::optional<std::uint64_t> until);
  // False where the owner has no such pin.
  bool unpin(NamespaceId space, const TokenView& prefix, const std::string& owner);
  // Ends all pins of an owner; returns how many.
  std::size_t unpin_all(const std::string& owner);

  // It is `now`: pins end, and what has outlived its time leaves. Time that goes back is ignored.
  Expired advance(std::uint64_t now);

  // All that was said, in the order in which prefixes were first named.
  std::vector<MarkValues> marks() const;

  // --- Following (radix_index_events.cpp) ---

  // From now on every chunk that a match may find, or no longer, is noted; `most_events` wait at
  // most. A chunk stored before is told of only when it leaves.
  void record_events(std::size_t most_events);
  EventLog::Taken take_events();

  // --- Runs that are kept anywhere (radix_index_runs.cpp) ---

  // From now on runs() finds runs of at least `min_length` tokens, as soon as its build() has filed
  // them. A second call starts anew.
  void index_runs(std::uint32_t min_length);
  // Null before. It has locks of its own: building is no change of the index.
  RunFinder* runs() const { return runs_.get(); }

  // --- Saving (radix_index_save.cpp). What is ready is saved, with recency, uses, marks and
  // counts; what is pinned by handles, used or being written is not. ---

  // Writes a whole snapshot.
  void save(IndexFile& file) const;

  // From now on what changes is written down, until it is taken. Throws where it is already.
  void record_changes(bool is_on);
  std::vector<std::byte> take_changes();

  // Becomes what was saved. REQUIRES: the same settings. Throws where the index is not empty, and
  // where extents contradict each other.
  void restore(const SavedIndex& saved);

  // Takes from what was saved the recency and uses of the chunks that it has too, the marks, and
  // what was counted. A chunk of time 0 that is not known there came later. Returns how many chunks
  // both have.
  std::size_t adopt(const SavedIndex& saved);

  // --- Looking (radix_index_check.cpp) ---

  IndexStats stats() const;
  // All chunks whose path begins with `prefix` and that are kept (radix_index_subtree.cpp).
  // `with_path`: also those that lead to them.
  Subtree walk_subtree(NamespaceId space, const TokenView& prefix, bool with_path) const;
  SubtreeStats subtree_stats(NamespaceId space, const TokenView& prefix) const;
  std::uint64_t state_hash() const { return hash_; }
  // Throws std::logic_error that says which invariant is broken. Slow.
  void check_invariants() const;

 private:
  friend class ChunkSample;
  friend class RunFinder;
  friend class RunSearch;

  // A point in a tree: `position` lies in (start, end] of `node`, or is 0 at a root.
  struct Point {
    NodeId node;
    std::uint32_t position;
  };

  // The end of a match inside a span.
  struct Reach {
    std::uint32_t position = 0;  // 0: no chunk of the span reaches into it
    ChunkId chunk = kNoChunk;
    Tier tier = Tier::kMemory;
  };

  // A walk along a caller's tokens, with the full chunks that end on it.
  struct Path {
    Point point;
    std::vector<ChunkId> chunks;
  };

  // What a reservation is to take: the chunks from span `first` on, which end at token `end`.
  struct Plan {
    std::size_t first = 0;
    std::vector<std::uint16_t> num_units;  // of each chunk
    std::uint32_t end = 0;
  };

  // What a reservation took, and how many units the rest would have needed.
  struct Taken {
    std::vector<ChunkId> ids;
    std::uint64_t missing_units = 0;
  };

  struct TierState {
    ExtentAllocator extents;
    GhostList ghosts;  // of what left, where the policy learns from it
    LeafOrder leaves;
    std::uint32_t max_chunks;  // extents at most, 0xFFFFFFFF where only room counts
    std::uint32_t num_extents = 0;
    std::uint64_t num_ready = 0;
    std::uint64_t num_writing = 0;
    std::uint64_t num_uses = 0;
    std::uint64_t num_evicted = 0;
    std::uint64_t num_failed = 0;
    std::unordered_set<ChunkId> held;  // leaves that were passed over because of a pin or a use
    // Extents that lost their chunk while a command uses them: offset → (units, uses).
    std::unordered_map<std::uint32_t, std::pair<std::uint16_t, std::uint16_t>> limbo;
    // By offset: what left, and was not written over since. Only on disk.
    std::map<std::uint32_t, ChunkRef> remains;

    void forget_held(ChunkId id) {
      if (!held.empty()) held.erase(id);
    }

    TierState(const TierState&) = delete;  // `leaves` refers to `ghosts`
    TierState(ChunkTable& chunks, const MarkTable& marks, Tier tier, const IndexConfig& config);
  };

  TierState& tier(Tier tier) { return tiers_[index_of(tier)]; }
  const TierState& tier(Tier tier) const { return tiers_[index_of(tier)]; }
  NodeId root_of(NamespaceId space) const;
  std::uint32_t span_tokens() const { return config_.chunk_tokens; }

  // Matching.
  Reach reach(Point point, std::span<const Tier> tiers) const;
  Match finish_match(Point any, Point memory) const;
  bool is_better(ChunkId a, ChunkId b) const;
  ChunkRef ref(ChunkId id) const;
  ChunkRef slice(ChunkId id, std::uint32_t first, std::uint32_t count) const;
  bool is_pinned(ChunkId id) const;

  // Tree and records in step (radix_index_tree.cpp).
  Path walk(NamespaceId space, const TokenView& tokens) const;
  void walk_on(const TokenView& tokens, std::uint32_t first, Path& path) const;
  std::uint32_t num_full(NodeId node) const;
  ChunkId full_chunk(NodeId node, std::uint32_t span) const;
  ChunkId find_tail(NodeId node, std::uint32_t end) const;
  NodeId split(NodeId node, std::uint32_t position);
  void join_with_only_child(NodeId node);
  void grow(Path& path, const TokenRun& fresh, ChunkId parent);
  ChunkId add_tail(Point point, ChunkId parent);
  std::vector<ChunkId> make_records(Path& path, const TokenRun& fresh, std::uint32_t end,
                                    ChunkId parent);
  void remove(ChunkId id);
  void remove_unless_needed(ChunkId id);
  void trim(NodeId node);
  void collect(NodeId node, std::uint32_t least_end, std::vector<ChunkId>& out) const;
  ChunkId best_below(NodeId node, Tier tier, ChunkId without) const;
  void refresh_best(ChunkId id, Tier tier);

  // Reserving (radix_index_reserve.cpp).
  std::uint16_t units_of(std::uint32_t num_tokens) const;
  Taken take_chunks(NamespaceId space, const TokenView& tokens, std::uint64_t time, bool tail);
  std::size_t count_undropped(std::span<const ChunkId> path) const;
  Plan plan_reserve(NamespaceId space, const TokenView& tokens, const Path& path, bool tail) const;
  void fail_writing(std::span<const ChunkRef> chunks, Tier which);

  // States (radix_index_state.cpp).
  std::vector<std::uint32_t> take_extents(Tier which, std::span<const std::uint16_t> num_units);
  void give_back_extent(Tier which, Extent extent);
  void begin_writing(ChunkId id, Tier which, std::uint32_t offset, std::uint16_t num_units);
  void set_ready(ChunkId id, Tier which);
  void finish_writing(ChunkId id, Tier which);
  void vacate(ChunkId id, Tier which);
  void vacate_with_all_below(ChunkId id, Tier which);
  void vacate_everywhere(ChunkId id);
  void add_use(ChunkId id, Tier which);
  std::uint32_t num_uses(const ChunkRef& chunk, Tier which, bool is_written) const;
  void require_uses(std::span<const ChunkRef> chunks, Tier which, bool is_written) const;
  bool end_use(const ChunkRef& chunk, Tier which);
  void end_reading(const ChunkRef& chunk, Tier which);
  void write_time(ChunkId id, std::uint64_t time);
  void note_use(ChunkId id, std::uint64_t time);
  void count_use(ChunkId id, std::uint64_t time);
  void set_uses(ChunkId id, std::uint16_t num_uses);
  bool is_leaf(ChunkId id, Tier which) const;
  void queue_if_leaf(ChunkId id, Tier which);
  void settle(ChunkId id);
  void record(std::uint64_t what, ChunkId id, std::uint64_t value);

  // Tails (radix_index_tails.cpp).
  std::uint32_t least_cover(ChunkId tail) const;
  void note_tail(ChunkId id);
  void forget_tail(ChunkId id);
  void inherit_near_tails(NodeId upper, NodeId lower);
  bool is_covered(ChunkId tail, Tier tier, std::uint32_t least) const;
  void leave_if_covered(ChunkId tail, Tier tier);
  void supersede_tails(ChunkId id, Tier tier);

  // Disk (radix_index_disk.cpp, radix_index_restore.cpp).
  bool can_spill(ChunkId id) const;
  void queue_spill(ChunkId id);
  void note_remains(ChunkId id);
  void forget_remains(ChunkId id);
  bool has_only_child_unready(ChunkId id) const;
  void queue_spill_with_all_below(ChunkId id);
  std::vector<ChunkId> spill_chain(ChunkId id) const;
  bool is_on(const std::vector<ChunkId>& run, ChunkId id) const;
  std::vector<ChunkId> pop_spill_run(std::size_t max_chunks);
  const NamespaceDigest& digest_of(ChunkId id) const;
  void append_tokens(ChunkId id, std::vector<Token>& out) const;
  void occupy(Tier which, std::span<const SavedChunk> chunks);
  void restore_chunks(std::span<const SavedChunk> chunks, std::span<const NamespaceDigest> digests);
  void restore_chain(std::span<const SavedChunk> chunks, std::span<const NamespaceDigest> digests,
                     std::span<const std::size_t> chain, std::vector<ChunkId>& ids);
  bool restore_extent(ChunkId id, Tier which, const SavedChunk& chunk);

  // Keys (radix_index_keys.cpp).
  const Digest& key_of(ChunkId id);

  // Following (radix_index_events.cpp).
  void tell(ChunkId id, Tier which, bool is_stored);

  // Learning from what left (radix_index_ghosts.cpp).
  std::uint64_t content_of(ChunkId id) const;
  void note_ghost(ChunkId id, Tier which);
  void know_again(ChunkId id, Tier which);

  // Runs (radix_index_runs.cpp).
  void note_runs(ChunkId id, Tier which, bool is_stored);

  // Leaving (radix_index_leave.cpp).
  std::vector<ChunkRef> evict_but(ChunkId spared, Tier which, std::uint64_t num_units);
  bool passed_over(ChunkId id, Tier which);

  // Subtrees (radix_index_subtree.cpp).
  std::vector<ChunkId> kept_below(NamespaceId space, const TokenView& prefix) const;

  // Marking (radix_index_marks.cpp).
  MarkId make_mark(NamespaceId space, const TokenView& prefix);
  MarkId find_mark(NamespaceId space, const TokenView& prefix) const;
  void remove_if_silent(MarkId id);
  MarkId governor(Point point, ChunkId parent) const;
  void set_group(ChunkId id, MarkId group);
  void require_pin_fits(const Path& path, const TokenView& prefix) const;
  std::uint64_t most_pinned_units(Tier tier) const;
  std::vector<MarkId> evictable_groups(Tier tier) const;
  void change_mark(NamespaceId space, const TokenView& prefix, bool takes_back,
                   const std::function<void(Mark&)>& change);
  std::size_t end_pins(const std::string* owner, std::uint64_t now);

  MarkValues mark_values(const Mark& mark) const;

  // Saving (radix_index_save.cpp).
  bool is_told(ChunkId id) const;
  void tell_chunk(ChunkId id, ChangeLog& log) const;
  void note_ready(ChunkId id, Tier which);
  void note_left(ChunkId id, Tier which);
  void note_changed(ChunkId id);
  void note_mark(MarkId id);
  IndexTotals totals() const;
  void go_on_from(const IndexTotals& totals);
  void restore_marks(std::span<const MarkValues> marks);

  // Quotas (radix_index_quota.cpp).
  std::vector<MarkId> groups_of_plan(const Path& path, const Plan& plan) const;
  void evict_within(MarkId root, Tier which, std::uint64_t num_units);
  void evict_for_quotas(Tier which, std::span<const MarkId> groups,
                        std::span<const std::uint16_t> num_units);
  std::size_t count_within_quotas(Tier which, std::span<const MarkId> groups,
                                  std::span<const std::uint16_t> num_units) const;
  void make_quota_room(NamespaceId space, const TokenView& tokens, bool tail);
  void cut_to_quotas(const Path& path, Plan& plan) const;
  bool may_be_on_disk(ChunkId id) const;
  void queue_spills_below(NamespaceId space, const TokenView& prefix);
  std::vector<MarkId> groups_of(std::span<const ChunkId> ids) const;

  // Checking (radix_index_check.cpp).
  void check_nodes(NodeId root, std::uint32_t& num_nodes, std::uint64_t& num_tokens) const;
  void check_chunk(ChunkId id) const;
  void check_tier(Tier which, const std::vector<ChunkId>& all) const;
  void check_marks(const std::vector<ChunkId>& all) const;  // radix_index_marks.cpp

  IndexConfig config_;
  ChunkTable chunks_;
  TokenArena arena_;  // before the tree, whose runs lie in it
  TokenTree tree_;
  MarkTable marks_;
  std::array<TierState, kNumTiers> tiers_;
  std::vector<std::pair<NodeId, NamespaceDigest>> roots_;  // in the order in which they were made
  std::unordered_map<NamespaceDigest, std::size_t, DigestHash> root_by_digest_;  // → in roots_
  std::unordered_map<NodeId, std::size_t> root_by_node_;
  std::unordered_map<ChunkId, std::uint32_t> pins_;  // of handles whose last chunk it is
  // Node whose end lies inside a span → tails of that span that end below it, at most tail_slack
  // behind.
  std::unordered_map<NodeId, std::vector<ChunkId>> near_tails_;
  std::deque<std::pair<ChunkId, std::uint32_t>> spill_queue_;  // with generation
  // By chunk, as far as remote tiers have asked; empty without one.
  struct KnownKey {
    Digest key = {};
    std::uint32_t generation = 0;
    bool is_known = false;
  };
  std::vector<KnownKey> keys_;
  EventLog events_;
  ChangeLog changes_;
  std::unique_ptr<RunFinder> runs_;  // null unless asked for
  std::uint64_t now_ = 0;            // the last admission
  std::uint64_t clock_ = 0;          // of the last advance()
  std::uint64_t num_pins_ = 0;
  std::uint64_t num_dropped_ = 0;
  std::uint64_t hash_ = 0x9E3779B97F4A7C15ull;
};

}  // namespace radixkv
