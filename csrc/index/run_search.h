// RunSearch is one call of RunFinder::find(): from grams to places to runs.
//
//   gram of the text ─▶ places it is filed under ─▶ tokens compared both ways
//                                                        ─▶ what of it is ready
//
// A place that lies on a run already found, at the same distance, is passed over. Work is bounded,
// and shared out among the grams: where a gram has more places than its share, the answer says so.
// Thread safety: one thread, for the length of one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "index/radix_index.h"
#include "index/run_finder.h"

namespace radixkv {

class RunSearch {
 public:
  RunSearch(const RunFinder& finder, NodeId root, std::uint32_t min_length)
      : finder_(finder), index_(finder.index_), root_(root), min_length_(min_length) {}

  KeptRuns find(const TokenView& tokens);

 private:
  // A stretch of the text that repeats itself, of which only the ends were looked for.
  struct Stretch {
    std::size_t first;
    std::size_t end;
    std::uint32_t period;
  };
  // Where the text and a path agree: how far the text goes on being equal, and where the path is.
  struct Agreed {
    std::size_t num_tokens;
    RadixIndex::Point point;
  };
  // A distance between text and path, and a node of the path.
  struct Aligned {
    std::int64_t distance;
    NodeId node;
    bool operator==(const Aligned&) const = default;
  };
  struct AlignedHash {
    std::size_t operator()(const Aligned& one) const {
      const auto distance = static_cast<std::uint64_t>(one.distance);
      return (distance * 0x9E3779B97F4A7C15ull ^ one.node) * 0xD6E8FEB86659FD93ull >> 7;
    }
  };

  void search(std::span<const Token> text);
  bool is_deep_in_repeats(std::size_t end);
  void look_up(const ChosenGram& gram, std::size_t most_places);
  void compare(const GramPlace& place, std::size_t end);
  Agreed go_back(RadixIndex::Point point, std::size_t end);
  Agreed go_on(RadixIndex::Point point, std::size_t end);
  void add_ready(std::size_t first, std::size_t num_tokens, RadixIndex::Point bottom);
  RadixIndex::Reach ready_end(RadixIndex::Point point) const;
  void add(std::size_t first, std::uint32_t position, std::uint32_t end, ChunkId last);
  void repeat_runs(const Stretch& stretch);
  void keep_longest();

  const RunFinder& finder_;
  const RadixIndex& index_;
  const NodeId root_;
  const std::uint32_t min_length_;

  std::span<const Token> text_;  // what is searched now, and where it begins in what was asked
  std::size_t text_first_ = 0;
  std::vector<Stretch> stretches_;
  std::unordered_map<Aligned, std::size_t, AlignedHash> compared_;  // → up to where in the text
  std::vector<GramPlace> places_;                                   // of the gram looked up
  std::vector<NodeId> nodes_;                                       // of the run that is compared
  std::size_t work_ = 0;
  KeptRuns result_;
};

}  // namespace radixkv
