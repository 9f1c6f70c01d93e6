// What the index tells, and how grams are filed.
#include "index/run_finder.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"
#include "index/run_search.h"

namespace radixkv {

namespace {

constexpr std::size_t kPathChunks = 64;    // filed at once, so that nobody waits long for the lock
constexpr std::size_t kHandOvers = 64;     // the same
constexpr std::size_t kLeastSwept = 4096;  // chunks that left before it is worth sweeping

bool is_visible_anywhere(const ChunkTable& chunks, ChunkId id) {
  return chunks.is_visible(id, Tier::kMemory) || chunks.is_visible(id, Tier::kDisk);
}

}  // namespace

RunFinder::RunFinder(const RadixIndex& index, std::uint32_t min_length)
    : index_(index), shape_(GramShape::for_length(min_length)) {
  if (min_length < 8 || min_length > 4096) {
    throw std::invalid_argument("min_length: expected 8 … 4096, got " + std::to_string(min_length));
  }
  for (const auto& [root, digest] : index_.roots_) {
    std::vector<ChunkId> all;
    index_.collect(root, 0, all);
    for (const ChunkId id : all) {
      if (is_visible_anywhere(index_.chunks_, id)) note_visible(id);
    }
  }
}

void RunFinder::note_visible(ChunkId id) {
  const std::lock_guard lock(queue_mutex_);
  came_.push_back({id, index_.chunks_[id].generation});
  ++num_waiting_;
}

void RunFinder::note_invisible(ChunkId id) {
  const Heir heir = find_heir(id);
  const std::lock_guard lock(queue_mutex_);
  ++num_left_;
  if (heir.heir.id == kNoChunk) return;
  left_.push_back(heir);
  ++num_waiting_;
}

// The visible chunk that shares most tokens of its span with this one.
RunFinder::Heir RunFinder::find_heir(ChunkId id) const {
  const ChunkTable& chunks = index_.chunks_;
  const std::uint32_t span = chunks[id].span;
  const std::uint32_t start = chunks.start(id);
  Heir best{{id, chunks[id].generation}, {kNoChunk, 0}, start};
  const auto offer = [&](ChunkId other, std::uint32_t end) {
    if (other == kNoChunk || other == id || end <= best.end) return;
    if (!is_visible_anywhere(chunks, other)) return;
    best.heir = {other, chunks[other].generation};
    best.end = end;
  };
  NodeId node = chunks.node(id);
  std::uint32_t position = chunks.end(id);
  while (true) {
    const Node& here = index_.tree_[node];
    if (here.end() >= start + index_.span_tokens()) {
      offer(index_.full_chunk(node, span), position);
    } else {
      for (const Tier tier : kTiers) {
        const ChunkId below = here.best[index_of(tier)];
        offer(below != id ? below : index_.best_below(node, tier, id), position);
      }
    }
    for (ChunkId tail = here.first_tail; tail != kNoChunk; tail = chunks.next_tail(tail)) {
      if (chunks[tail].span == span) offer(tail, std::min(position, chunks.end(tail)));
    }
    if (here.start <= start || best.end == position) return best;
    position = here.start;
    node = here.parent;
  }
}

bool RunFinder::build() {
  const std::unique_lock lock(table_mutex_);
  take_waiting();
  for (std::size_t i = 0; i < kHandOvers && !to_hand_over_.empty(); ++i) {
    const Heir heir = to_hand_over_.front();
    to_hand_over_.pop_front();
    hand_over(heir);
    heirs_.erase(key_of(heir.leaving));
  }
  if (to_hand_over_.empty()) {
    const std::vector<ChunkId> path = take_path();
    if (!path.empty()) file_path(path);
    if (to_file_.empty()) sweep();
  }
  const std::lock_guard queue_lock(queue_mutex_);
  num_waiting_ = came_.size() + left_.size() + to_file_.size() + to_hand_over_.size();
  return num_waiting_ > 0 || next_part_ > 0;
}

void RunFinder::take_waiting() {
  const std::lock_guard lock(queue_mutex_);
  to_file_.insert(to_file_.end(), came_.begin(), came_.end());
  came_.clear();
  for (const Heir& heir : left_) heirs_[key_of(heir.leaving)] = heir;
  to_hand_over_.insert(to_hand_over_.end(), left_.begin(), left_.end());
  left_.clear();
}

bool RunFinder::is_there(const Named& chunk) const {
  return index_.chunks_.is_current(chunk.id, chunk.generation) &&
         is_visible_anywhere(index_.chunks_, chunk.id);
}

bool RunFinder::is_filed(const GramPlace& place) const {
  const ChunkTable& chunks = index_.chunks_;
  return place.chunk < chunks.num_slots() && chunks[place.chunk].is_alive &&
         GramPlace::age_of(chunks[place.chunk].generation) == place.age &&
         is_visible_anywhere(chunks, place.chunk);
}

// What an heir has may have passed on meanwhile: all that left since is in heirs_.
bool RunFinder::follow(Heir& heir) const {
  while (!is_there(heir.heir)) {
    const auto next = heirs_.find(key_of(heir.heir));
    if (next == heirs_.end()) return false;
    heir.heir = next->second.heir;
    heir.end = std::min(heir.end, next->second.end);
  }
  return true;
}

void RunFinder::hand_over(Heir heir) {
  if (!follow(heir)) return;
  const ChunkTable& chunks = index_.chunks_;
  const std::uint32_t start = chunks.start(heir.heir.id);
  const std::uint32_t length = shape_.gram_tokens;
  const std::uint32_t first = start >= length ? start - length + 1 : 0;
  const std::vector<Token> tokens = path_tokens(heir.heir.id, first, heir.end);
  const std::uint64_t seed = seed_of(heir.heir.id);
  for (std::uint32_t end = std::max(start + 1, length); end <= heir.end; ++end) {
    const auto within = static_cast<std::uint16_t>(end - start);
    const GramPlace before{heir.leaving.id, within, GramPlace::age_of(heir.leaving.generation)};
    const GramPlace after{heir.heir.id, within, GramPlace::age_of(heir.heir.generation)};
    table_.replace(gram_key(tokens, end - first, shape_, seed), before, after);
  }
}

// The next chunks of one path to file, parents first.
std::vector<ChunkId> RunFinder::take_path() {
  std::vector<ChunkId> path;
  while (path.size() < kPathChunks && !to_file_.empty()) {
    const Named next = to_file_.front();
    if (is_there(next)) {
      if (!path.empty() && index_.chunks_[next.id].parent != path.back()) break;
      path.push_back(next.id);
    }
    to_file_.pop_front();
  }
  return path;
}

void RunFinder::file_path(const std::vector<ChunkId>& path) {
  const ChunkTable& chunks = index_.chunks_;
  const std::uint32_t first = chunks.start(path.front());
  const std::uint32_t reach = shape_.min_length;
  // As much as says which grams before `first` were chosen, and whether they lie among repeats.
  const std::uint32_t margin = 3 * reach + 2 * shape_.gram_tokens;
  const std::uint32_t begin = first > margin ? first - margin : 0;
  const std::vector<Token> tokens = path_tokens(path.back(), begin, chunks.end(path.back()));
  const auto chunk_at = [&](std::uint32_t position) {
    const std::uint32_t span = position / index_.span_tokens();
    if (position >= first) return path[span - chunks[path.front()].span];
    ChunkId id = chunks[path.front()].parent;
    while (chunks[id].span > span) id = chunks[id].parent;
    return id;
  };
  for (const ChosenGram& gram : winnow(tokens, shape_, seed_of(path.back()))) {
    const auto end = begin + static_cast<std::uint32_t>(gram.end);
    const std::uint32_t period = period_before(tokens, gram.end, reach, shape_);
    if (period == 0) {
      if (begin + gram.last_window <= first) continue;  // it was filed with what it lies in
    } else {
      // Deep among repeats, or the path ends before they do: then what comes later decides.
      const std::size_t most = std::min(gram.end + reach, tokens.size());
      if (end_of_repeats(tokens, gram.end, period, most) == most || end + reach <= first) continue;
    }
    file(gram.key, chunk_at(end - 1), end);
  }
}

// Under one chunk for each token of the tree. Of a gram that is everywhere, places that have gone
// are not looked for one by one: sweep() finds them.
void RunFinder::file(std::uint64_t key, ChunkId id, std::uint32_t end) {
  const Chunk& chunk = index_.chunks_[id];
  const GramPlace place{id, static_cast<std::uint16_t>(end - index_.chunks_.start(id)),
                        GramPlace::age_of(chunk.generation)};
  std::size_t num_places = 0;
  table_.for_each(key, [&](const GramPlace&) { return ++num_places < GramTable::kMostPlaces; });
  const bool is_full = num_places == GramTable::kMostPlaces;
  if (is_full && table_.had_more(key)) return;
  bool is_known = false;
  GramPlace gone;
  table_.for_each(key, [&](const GramPlace& other) {
    if (is_full && !is_filed(other)) gone = other;
    is_known = other == place ||
               (other.end == place.end && is_filed(other) && is_same_token(other.chunk, id, end));
    return !is_known;
  });
  if (is_known) return;
  if (gone.chunk != kNoChunk) return table_.replace(key, gone, place);
  if (is_full) return table_.note_more(key);
  if (table_.needs_room(key)) {
    table_.refile(GramTable::part_of(key), [this](const GramPlace& one) { return is_filed(one); });
  }
  table_.add(key, place);
}

// Whether the token before `end` is one and the same in the paths of both. REQUIRES: it lies as far
// into both.
bool RunFinder::is_same_token(ChunkId a, ChunkId b, std::uint32_t end) const {
  return index_.chunks_[a].span == index_.chunks_[b].span && node_at(a, end) == node_at(b, end);
}

// The node of the chunk's path that holds the token before `end`.
NodeId RunFinder::node_at(ChunkId id, std::uint32_t end) const {
  NodeId node = index_.chunks_.node(id);
  while (index_.tree_[node].start >= end) node = index_.tree_[node].parent;
  return node;
}

NodeId RunFinder::root_of(ChunkId id) const {
  NodeId node = index_.chunks_.node(id);
  while (index_.tree_[node].parent != kNoNode) node = index_.tree_[node].parent;
  return node;
}

std::uint64_t RunFinder::seed_of(ChunkId id) const { return seed_of_space(root_of(id)); }

std::vector<Token> RunFinder::path_tokens(ChunkId id, std::uint32_t first,
                                          std::uint32_t end) const {
  std::vector<Token> tokens(end - first);
  NodeId node = node_at(id, end);
  while (end > first) {
    const Node& here = index_.tree_[node];
    const std::uint32_t from = std::max(here.start, first);
    std::copy_n(here.run.data() + (from - here.start), end - from, tokens.data() + (from - first));
    end = from;
    node = here.parent;
  }
  return tokens;
}

// Throws out what chunks that have gone left behind, a part at a time, where it is worth while.
void RunFinder::sweep() {
  if (next_part_ == 0) {
    const std::lock_guard lock(queue_mutex_);
    if (num_left_ < std::max<std::size_t>(kLeastSwept, index_.chunks_.num_chunks() / 4)) return;
    num_left_ = 0;
  }
  table_.refile(next_part_, [this](const GramPlace& one) { return is_filed(one); });
  next_part_ = (next_part_ + 1) % GramTable::kNumParts;
}

KeptRuns RunFinder::find(std::uint32_t space, const TokenView& tokens,
                         std::uint32_t min_length) const {
  if (min_length < shape_.min_length) {
    throw std::invalid_argument("min_length: expected at least " +
                                std::to_string(shape_.min_length) + ", got " +
                                std::to_string(min_length));
  }
  const std::shared_lock lock(table_mutex_);
  KeptRuns result = RunSearch(*this, index_.root_of(space), min_length).find(tokens);
  result.num_waiting = num_waiting();
  return result;
}

std::vector<ChunkRef> RunFinder::slices(const KeptRun& run) const {
  const ChunkTable& chunks = index_.chunks_;
  if (!chunks.is_current(run.last, run.generation)) return {};
  std::vector<ChunkRef> result;
  std::uint32_t end = run.position + run.num_tokens;
  for (ChunkId id = run.last; end > run.position; id = chunks[id].parent) {
    const std::uint32_t start = chunks.start(id);
    const std::uint32_t first = std::max(start, run.position);
    result.push_back(index_.slice(id, first - start, end - first));
    end = first;
  }
  std::reverse(result.begin(), result.end());
  return result;
}

std::size_t RunFinder::num_waiting() const {
  const std::lock_guard lock(queue_mutex_);
  return num_waiting_;
}

RunFinderStats RunFinder::stats() const {
  const std::shared_lock lock(table_mutex_);
  return {table_.num_entries(), table_.num_bytes(), num_waiting()};
}

}  // namespace radixkv
