// ExtentAllocator hands out runs of units of one tier (and runs of chunk ids, which are the same
// problem).
//
//   [ used | free | used used | free free free ]     free runs in lists by length,
//                                                    neighbours coalesced
//
// Lengths up to 16 have a list each, so the fit is exact for every extent of a chunk; longer runs
// share a list between powers of two. Taking and giving back are O(1), and what is handed out
// depends on the calls alone, so that replicas agree.
//
// A prompt that is evicted leaves chunk by chunk, from its end. What came back last is therefore
// kept apart as long as it grows, and filed with the free runs when something else happens.
//
// Invariant: filed runs are disjoint and never adjacent; each unit is free or in exactly one
// extent. Thread safety: one thread (the control plane's).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/flat_map.h"
#include "core/types.h"

namespace radixkv {

class ExtentAllocator {
 public:
  // Has units 0 … num_units - 1, all free. REQUIRES: num_units < 2^32 - 1.
  explicit ExtentAllocator(std::uint32_t num_units);

  // Takes a run from the shortest lengths that fit, or nullopt. Its bytes are undefined.
  // REQUIRES: num_units > 0.
  std::optional<Extent> take(std::uint32_t num_units);

  // Takes a whole free run that is shorter than `num_units`, from the longest there are, or
  // nullopt.
  std::optional<Extent> take_shorter(std::uint32_t num_units);

  // Gives back all but the first `num_units`. REQUIRES: extent was taken and is not shorter.
  Extent shrink(Extent extent, std::uint32_t num_units);

  void give_back(Extent extent);

  // Marks what a reopened tier holds as taken. Throws std::invalid_argument where extents overlap
  // or end behind the tier; then nothing is taken. REQUIRES: nothing was taken before.
  void occupy(std::span<const Extent> extents);

  std::uint32_t num_units() const { return num_units_; }
  std::uint32_t num_free() const { return num_free_; }

  // Throws std::logic_error where an invariant is broken.
  void check_invariants() const;

 private:
  static constexpr std::uint32_t kExact = 16;  // lengths with a list of their own
  static constexpr std::uint32_t kNumLists = 48;
  static constexpr std::uint32_t kNil = 0xFFFFFFFFu;

  struct Run {
    Extent extent;
    std::uint32_t previous;  // in the list of its length; kNil ends it
    std::uint32_t next;
  };

  static std::uint32_t list_of(std::uint32_t length);
  void add_run(Extent extent);
  void remove_run(std::uint32_t run);
  Extent carve(std::uint32_t run, std::uint32_t num_units);
  void file_growing();

  std::uint32_t num_units_;
  std::uint32_t num_free_ = 0;  // filed or growing
  Extent growing_ = {0, 0};
  std::vector<Run> runs_;
  std::vector<std::uint32_t> spare_runs_;
  std::array<std::uint32_t, kNumLists> heads_;
  std::uint64_t filled_lists_ = 0;  // bit i: heads_[i] is not empty
  FlatMap run_at_start_;            // first unit of a free run → run
  FlatMap run_at_end_;              // unit behind a free run → run
};

}  // namespace radixkv
