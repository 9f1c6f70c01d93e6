#include "index/run_search.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace radixkv {

namespace {

constexpr std::size_t kMostWork = 1 << 14;  // places, of some 200 ns each
constexpr std::size_t kLeastPlaces = 2;     // of each gram, whatever was done before
constexpr std::size_t kTokensPerWork = 256;
constexpr std::size_t kMostRuns = 1 << 17;

// How many tokens before `a` equal those before `b`.
std::size_t count_equal_before(const Token* a, const Token* b, std::size_t most) {
  constexpr std::size_t kBlock = 32;
  std::size_t count = 0;
  while (count + kBlock <= most &&
         std::memcmp(a - count - kBlock, b - count - kBlock, kBlock * sizeof(Token)) == 0) {
    count += kBlock;
  }
  while (count < most &&
         a[-1 - static_cast<std::ptrdiff_t>(count)] == b[-1 - static_cast<std::ptrdiff_t>(count)]) {
    ++count;
  }
  return count;
}

}  // namespace

// What is no token id equals nothing kept: the text is searched in the parts between.
KeptRuns RunSearch::find(const TokenView& tokens) {
  std::vector<Token> text;
  text.reserve(tokens.size());
  for (std::size_t i = 0; i <= tokens.size(); ++i) {
    const std::optional<Token> token = i < tokens.size() ? tokens.at(i) : std::nullopt;
    if (token) {
      text.push_back(*token);
      continue;
    }
    text_first_ = i - text.size();
    search(text);
    text.clear();
  }
  keep_longest();
  return std::move(result_);
}

void RunSearch::search(std::span<const Token> text) {
  text_ = text;
  stretches_.clear();
  compared_.clear();
  std::vector<ChosenGram> grams = winnow(text, finder_.shape_, RunFinder::seed_of_space(root_));
  std::erase_if(grams, [this](const ChosenGram& gram) { return is_deep_in_repeats(gram.end); });
  std::size_t num_left = grams.size();
  for (const ChosenGram& gram : grams) {
    const std::size_t work_left = work_ < kMostWork ? kMostWork - work_ : 0;
    look_up(gram, std::max(kLeastPlaces, work_left / num_left--));
  }
  for (const Stretch& stretch : stretches_) repeat_runs(stretch);
}

bool RunSearch::is_deep_in_repeats(std::size_t end) {
  const GramShape& shape = finder_.shape_;
  // More than what is filed near the ends of repeats, so that every alignment of theirs is met.
  const std::size_t margin = shape.min_length + 3 * std::size_t{shape.gram_tokens};
  const std::uint32_t period = period_before(text_, end, margin, shape);
  if (period == 0 || end_of_repeats(text_, end, period, end + margin) < end + margin) return false;
  if (stretches_.empty() || end > stretches_.back().end) {
    std::size_t first = end - shape.gram_tokens - margin;
    while (first > 0 && text_[first - 1] == text_[first - 1 + period]) --first;
    stretches_.push_back({first, end_of_repeats(text_, end, period, text_.size()), period});
  }
  return true;
}

// What each place takes is mostly waiting for memory, so it is asked for some places ahead.
void RunSearch::look_up(const ChosenGram& gram, std::size_t most_places) {
  const std::size_t most_seen = 2 * most_places;  // some may have gone
  places_.clear();
  finder_.table_.for_each(gram.key, [&](const GramPlace& place) {
    __builtin_prefetch(&index_.chunks_[place.chunk]);
    places_.push_back(place);
    return places_.size() <= most_seen;
  });
  const bool has_more = places_.size() > most_seen || finder_.table_.had_more(gram.key);
  std::erase_if(places_, [this](const GramPlace& place) { return !finder_.is_filed(place); });
  if (places_.size() > most_places || has_more) result_.truncated = true;
  if (places_.size() > most_places) places_.resize(most_places);
  for (const GramPlace& place : places_) {
    __builtin_prefetch(&index_.tree_[index_.chunks_.node(place.chunk)]);
  }
  for (const GramPlace& place : places_) compare(place, gram.end);
}

void RunSearch::compare(const GramPlace& place, std::size_t end) {
  ++work_;
  const std::uint32_t position = index_.chunks_.start(place.chunk) + place.end;
  const RadixIndex::Point point{finder_.node_at(place.chunk, position), position};
  const std::int64_t distance = std::int64_t{position} - static_cast<std::int64_t>(end);
  const auto known = compared_.find({distance, point.node});
  if (known != compared_.end() && known->second >= end) return;
  nodes_.clear();
  const Agreed before = go_back(point, end);
  if (before.num_tokens < finder_.shape_.gram_tokens) return;  // another gram with this key
  const Agreed behind = go_on(point, end);
  const std::size_t num_tokens = before.num_tokens + behind.num_tokens;
  for (const NodeId node : nodes_) compared_[{distance, node}] = end + behind.num_tokens;
  work_ += num_tokens / kTokensPerWork;
  if (num_tokens >= min_length_) add_ready(end - before.num_tokens, num_tokens, behind.point);
}

RunSearch::Agreed RunSearch::go_back(RadixIndex::Point point, std::size_t end) {
  std::size_t count = 0;
  while (point.position > 0 && count < end) {
    const Node& here = index_.tree_[point.node];
    nodes_.push_back(point.node);
    const std::uint32_t within = point.position - here.start;
    const std::size_t most = std::min<std::size_t>(within, end - count);
    const std::size_t equal =
        count_equal_before(here.run.data() + within, text_.data() + (end - count), most);
    count += equal;
    point.position -= static_cast<std::uint32_t>(equal);
    if (equal < within) break;
    point.node = here.parent;
  }
  return {count, point};
}

RunSearch::Agreed RunSearch::go_on(RadixIndex::Point point, std::size_t end) {
  const TokenView text(text_.data(), text_.size(), TokenType::kUint32);
  std::size_t count = 0;
  while (end + count < text_.size()) {
    NodeId node = point.node;
    if (point.position == index_.tree_[node].end()) {
      node = index_.tree_[node].children.find(text_[end + count]);
      if (node == kNoNode) break;
      nodes_.push_back(node);
    }
    const Node& here = index_.tree_[node];
    const std::uint32_t within = point.position - here.start;
    const std::size_t equal =
        text.match(end + count, here.run.data() + within, here.run.size() - within);
    count += equal;
    point = {node, point.position + static_cast<std::uint32_t>(equal)};
    if (point.position < here.end()) break;
  }
  return {count, point};
}

// How far the span of the token before `point` is ready, and which chunk has it that far.
RadixIndex::Reach RunSearch::ready_end(RadixIndex::Point point) const {
  const std::uint32_t span = (point.position - 1) / index_.span_tokens();
  if (index_.tree_[point.node].end() >= (span + 1) * index_.span_tokens()) {
    const ChunkId full = index_.full_chunk(point.node, span);
    for (const Tier tier : kTiers) {
      if (index_.chunks_.is_visible(full, tier)) return {point.position, full, tier};
    }
  }
  return index_.reach(point, kTiers);
}

// Of a run whose last token is before `bottom`, what chunks that are ready hold: all of it, unless
// some are on their way or were dropped.
void RunSearch::add_ready(std::size_t first, std::size_t num_tokens, RadixIndex::Point bottom) {
  const std::uint32_t top = bottom.position - static_cast<std::uint32_t>(num_tokens);
  std::uint32_t end = bottom.position;  // of the piece that is ready, with its last chunk
  ChunkId last = kNoChunk;
  RadixIndex::Point point = bottom;
  const auto add_piece = [&](std::uint32_t from) {
    if (last != kNoChunk) add(first + (from - top), from, end, last);
    last = kNoChunk;
  };
  while (point.position > top) {
    while (index_.tree_[point.node].start >= point.position) {
      point.node = index_.tree_[point.node].parent;
    }
    const std::uint32_t start = (point.position - 1) / index_.span_tokens() * index_.span_tokens();
    const RadixIndex::Reach ready = ready_end(point);
    if (ready.position < point.position) add_piece(point.position);
    if (last == kNoChunk && ready.position > std::max(start, top)) {
      end = ready.position;
      last = ready.chunk;
    }
    point.position = std::max(start, top);
  }
  add_piece(top);
}

void RunSearch::add(std::size_t first, std::uint32_t position, std::uint32_t end, ChunkId last) {
  if (end - position < min_length_) return;
  if (result_.runs.size() >= kMostRuns) {
    result_.truncated = true;
    return;
  }
  result_.runs.push_back({static_cast<std::uint32_t>(text_first_ + first), end - position, position,
                          last, index_.chunks_[last].generation});
}

// A run inside a stretch is found again a period later, and so on; the last one is cut off.
void RunSearch::repeat_runs(const Stretch& stretch) {
  const std::size_t begin = text_first_ + stretch.first;
  const std::size_t end = text_first_ + stretch.end;
  std::vector<std::optional<KeptRun>> longest(stretch.period);  // by where in the period they begin
  for (const KeptRun& run : result_.runs) {
    if (run.first_token < begin || run.first_token + run.num_tokens > end) continue;
    std::optional<KeptRun>& known = longest[(run.first_token - begin) % stretch.period];
    if (!known || run.num_tokens > known->num_tokens) known = run;
  }
  for (const std::optional<KeptRun>& run : longest) {
    if (!run) continue;
    ChunkId last = run->last;
    bool is_cut = false;
    for (std::size_t first = run->first_token + stretch.period; first < end && !is_cut;
         first += stretch.period) {
      const std::size_t num_tokens = std::min<std::size_t>(run->num_tokens, end - first);
      const auto position_end = run->position + static_cast<std::uint32_t>(num_tokens);
      is_cut = num_tokens < run->num_tokens;
      while (index_.chunks_.start(last) >= position_end) last = index_.chunks_[last].parent;
      add(first - text_first_, run->position, position_end, last);
    }
  }
}

// Leaves out what lies inside another run, and what a key of another namespace's text led to.
void RunSearch::keep_longest() {
  std::vector<KeptRun>& runs = result_.runs;
  std::ranges::sort(runs, [](const KeptRun& a, const KeptRun& b) {
    return a.first_token != b.first_token ? a.first_token < b.first_token
                                          : a.num_tokens > b.num_tokens;
  });
  std::size_t covered = 0;
  std::erase_if(runs, [&](const KeptRun& run) {
    const std::size_t end = std::size_t{run.first_token} + run.num_tokens;
    if (end <= covered || finder_.root_of(run.last) != root_) return true;
    covered = end;
    return false;
  });
}

}  // namespace radixkv
