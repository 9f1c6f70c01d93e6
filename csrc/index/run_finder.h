// RunFinder finds what an index keeps of a text anywhere, not only as a prefix.
//
//   kept    … x x [ a b c d e f g ] y …          in whatever prompt, across the borders of nodes
//   asked       z [ a b c d e f g ] z …          the longest runs, and one place of each
//
// It keeps grams of all chunks that a match may find (winnow.h), which lead to the places that may
// share a run; the tree's own tokens decide. So it never claims what is not kept. Grams are filed
// in the background: the index tells which chunks come and go, build() files and hands over.
//
// A gram is filed under one chunk that holds its last token. Where prompts part inside a chunk's
// span, several chunks hold the same token of the tree; when the one leaves, it hands what it has
// filed there to another.
//
// Inside text that repeats itself every few tokens grams are left out, except near its ends: with
// those, a run is found at one repeat, and the others follow from the text that was asked for.
//
// Thread safety: note_…() with the index alone; build() and find() beside any const call of the
// index, build() by one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/types.h"
#include "index/gram_table.h"
#include "index/tokens.h"
#include "index/winnow.h"

namespace radixkv {

class RadixIndex;

// A run of the tokens asked for, and one place where it is kept.
struct KeptRun {
  std::uint32_t first_token;  // in the tokens asked for
  std::uint32_t num_tokens;
  std::uint32_t position;  // of its first token in the prompt that is kept
  ChunkId last;            // the chunk that holds its last token
  std::uint32_t generation;
};

struct KeptRuns {
  std::vector<KeptRun> runs;    // none lies inside another; by first_token
  bool truncated = false;       // not all places were looked at: there may be longer runs
  std::size_t num_waiting = 0;  // chunks whose grams were not filed yet
};

struct RunFinderStats {
  std::size_t num_grams = 0;  // with those of chunks that have gone and were not swept out yet
  std::size_t num_bytes = 0;
  std::size_t num_waiting = 0;
};

class RunFinder {
 public:
  // Finds runs of at least `min_length` tokens. Everything that is visible now waits to be filed.
  RunFinder(const RadixIndex& index, std::uint32_t min_length);

  std::uint32_t min_length() const { return shape_.min_length; }

  // A match may find the chunk from now on; or is about to be no longer able to.
  void note_visible(ChunkId id);
  void note_invisible(ChunkId id);

  // Files some of what waits. False where nothing does.
  bool build();

  // Throws std::invalid_argument where `min_length` is less than the finder's.
  KeptRuns find(std::uint32_t space, const TokenView& tokens, std::uint32_t min_length) const;

  // The chunks of a run, first to last; empty once its last chunk has gone.
  std::vector<ChunkRef> slices(const KeptRun& run) const;

  RunFinderStats stats() const;

 private:
  friend class RunSearch;

  struct Named {
    ChunkId id;
    std::uint32_t generation;
  };
  // Who has what a leaving chunk shares with others, up to a position.
  struct Heir {
    Named leaving;
    Named heir;
    std::uint32_t end;
  };
  static std::uint64_t key_of(const Named& chunk) {
    return std::uint64_t{chunk.generation} << 32 | chunk.id;
  }
  static std::uint64_t seed_of_space(std::uint32_t space) {
    return (space + 1ull) * 0xA24BAED4963EE407ull;
  }

  // The index.
  bool is_there(const Named& chunk) const;
  bool is_filed(const GramPlace& place) const;
  bool is_same_token(ChunkId a, ChunkId b, std::uint32_t end) const;
  NodeId node_at(ChunkId id, std::uint32_t end) const;
  NodeId root_of(ChunkId id) const;
  std::uint64_t seed_of(ChunkId id) const;
  std::vector<Token> path_tokens(ChunkId id, std::uint32_t first, std::uint32_t end) const;
  Heir find_heir(ChunkId id) const;

  // Building.
  void take_waiting();
  bool follow(Heir& heir) const;
  void hand_over(Heir heir);
  std::vector<ChunkId> take_path();
  void file_path(const std::vector<ChunkId>& path);
  void file(std::uint64_t key, ChunkId id, std::uint32_t end);
  void sweep();
  std::size_t num_waiting() const;

  const RadixIndex& index_;
  const GramShape shape_;

  mutable std::shared_mutex table_mutex_;
  GramTable table_;

  // The builder's.
  std::deque<Named> to_file_;
  std::deque<Heir> to_hand_over_;
  std::unordered_map<std::uint64_t, Heir> heirs_;  // those to hand over to, by who left
  std::size_t next_part_ = 0;                      // of the sweep under way; 0 if none is

  mutable std::mutex queue_mutex_;  // taken last; guards the rest
  std::vector<Named> came_;
  std::vector<Heir> left_;
  std::size_t num_left_ = 0;  // chunks that left since the last sweep
  std::size_t num_waiting_ = 0;
};

}  // namespace radixkv
