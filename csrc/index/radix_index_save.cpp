// Saving: all that an index is, and what becomes of it, written down; and taking it in again.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "index/index_file.h"
#include "index/radix_index.h"
#include "index/saved_index.h"

namespace radixkv {

namespace {

constexpr std::uint8_t kReadyAnywhere = state::ready(Tier::kMemory) | state::ready(Tier::kDisk);

}  // namespace

// A chunk that was dropped and waits for a pin is not worth a word: it is as good as gone.
bool RadixIndex::is_told(ChunkId id) const {
  return chunks_.has(id, kReadyAnywhere) && !chunks_.has(id, state::kDropped);
}

// Its namespace is named where a prompt begins, and holds for what follows.
void RadixIndex::tell_chunk(ChunkId id, ChangeLog& log) const {
  std::vector<Token> tokens;
  append_tokens(id, tokens);
  const ChunkId parent = chunks_[id].parent;
  NodeId space = chunks_.node(id);
  while (parent == kNoChunk && tree_[space].parent != kNoNode) space = tree_[space].parent;
  log.add_chunk(id, parent, space, tokens);
  log.add_use(id, chunks_[id].num_uses, chunks_[id].time);
}

// REQUIRES: the chunk has just become ready on the tier.
void RadixIndex::note_ready(ChunkId id, Tier which) {
  if (!changes_.is_on() || !is_told(id)) return;
  const bool is_first = (chunks_.state(id) & kReadyAnywhere) == state::ready(which);
  if (is_first) tell_chunk(id, changes_);
  changes_.add_kept(id, which, chunks_[id].offset[index_of(which)], chunks_[id].num_units);
}

// REQUIRES: the chunk is about to leave the tier.
void RadixIndex::note_left(ChunkId id, Tier which) {
  if (changes_.is_on() && chunks_.has(id, state::ready(which))) changes_.add_left(id, which);
}

void RadixIndex::note_changed(ChunkId id) {
  if (!changes_.is_on() || !is_told(id)) return;
  changes_.add_use(id, chunks_[id].num_uses, chunks_[id].time);
}

void RadixIndex::note_mark(MarkId id) {
  if (!changes_.is_on()) return;
  const MarkValues values = mark_values(marks_[id]);
  changes_.add_mark(roots_[root_by_digest_.at(values.digest)].first, values);
}

IndexTotals RadixIndex::totals() const {
  IndexTotals totals{.now = now_, .clock = clock_, .num_dropped = num_dropped_};
  for (const Tier which : kTiers) {
    totals.num_evicted[index_of(which)] = tier(which).num_evicted;
    totals.num_failed[index_of(which)] = tier(which).num_failed;
  }
  return totals;
}

void RadixIndex::save(IndexFile& file) const {
  ChangeLog log;
  for (const auto& [root, digest] : roots_) log.add_space(root, digest);
  for (const auto& [root, digest] : roots_) {
    std::vector<ChunkId> all;
    collect(root, 0, all);
    for (const ChunkId id : all) {
      if (!is_told(id)) continue;
      tell_chunk(id, log);
      for (const Tier which : kTiers) {
        if (!chunks_.has(id, state::ready(which))) continue;
        log.add_kept(id, which, chunks_[id].offset[index_of(which)], chunks_[id].num_units);
      }
      if (log.num_bytes() >= kFrameBytes) file.append(FrameKind::kSnapshot, log.take());
    }
  }
  for (const auto& [id, mark] : marks_.all()) {
    const MarkValues values = mark_values(mark);
    log.add_mark(roots_[root_by_digest_.at(values.digest)].first, values);
  }
  log.add_totals(totals());
  file.append(FrameKind::kSnapshotEnd, log.take());
}

void RadixIndex::record_changes(bool is_on) {
  if (is_on && changes_.is_on()) {
    throw std::invalid_argument("journal: expected an index without one, it has one already");
  }
  is_on ? changes_.begin() : changes_.end();
}

std::vector<std::byte> RadixIndex::take_changes() {
  if (changes_.num_bytes() > 0) changes_.add_totals(totals());
  return changes_.take();
}

void RadixIndex::restore(const SavedIndex& saved) {
  if (chunks_.num_chunks() > 0 || !marks_.empty()) {
    throw std::invalid_argument("restore: expected an empty index, it has " +
                                std::to_string(chunks_.num_chunks()) + " chunks");
  }
  for (const NamespaceDigest& digest : saved.digests()) find_namespace(digest);
  restore_chunks(saved.chunks(), saved.digests());
  restore_marks(saved.marks());
  go_on_from(saved.totals());
}

// What is counted goes on where it ended.
void RadixIndex::go_on_from(const IndexTotals& totals) {
  now_ = std::max(now_, totals.now);
  clock_ = std::max(clock_, totals.clock);
  num_dropped_ = std::max(num_dropped_, totals.num_dropped);
  for (const Tier which : kTiers) {
    TierState& here = tier(which);
    here.num_evicted = std::max(here.num_evicted, totals.num_evicted[index_of(which)]);
    here.num_failed = std::max(here.num_failed, totals.num_failed[index_of(which)]);
  }
}

void RadixIndex::restore_marks(std::span<const MarkValues> marks) {
  for (const MarkValues& values : marks) {
    const NamespaceId space = find_namespace(values.digest);
    const TokenView prefix(values.prefix.data(), values.prefix.size(), TokenType::kUint32);
    change_mark(space, prefix, false, [&](Mark& mark) {
      mark.priority = values.priority;
      mark.time_to_live = values.time_to_live;
      mark.quota_units = values.quota_units;
      mark.pins = {values.pins.begin(), values.pins.end()};
    });
  }
}

// Chunks that are kept here, though perhaps under another id, are told apart by their tokens.
std::size_t RadixIndex::adopt(const SavedIndex& saved) {
  const std::vector<SavedChunk> chunks = saved.chunks();
  std::vector<ChunkId> ids(chunks.size(), kNoChunk);
  std::size_t num_found = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const SavedChunk& chunk = chunks[i];
    const ChunkId parent =
        chunk.parent < 0 ? kNoChunk : ids[static_cast<std::size_t>(chunk.parent)];
    if (chunk.parent >= 0 && parent == kNoChunk) continue;
    Path path;
    if (parent == kNoChunk) {
      const auto space = static_cast<std::size_t>(chunk.space);
      path.point = {find_namespace(saved.digests()[space]), 0};
    } else {
      path.point = {chunks_.node(parent), chunks_.end(parent)};
    }
    const std::uint32_t start = path.point.position;
    const TokenView view(chunk.tokens, chunk.num_tokens, TokenType::kUint32);
    walk_on(view, start, path);
    if (path.point.position < start + chunk.num_tokens) continue;
    ids[i] =
        path.chunks.empty() ? find_tail(path.point.node, path.point.position) : path.chunks.back();
    if (ids[i] == kNoChunk || !is_told(ids[i])) continue;
    ++num_found;
    if (chunk.num_uses > chunks_[ids[i]].num_uses) set_uses(ids[i], chunk.num_uses);
    write_time(ids[i], chunk.time);
  }
  restore_marks(saved.marks());
  go_on_from(saved.totals());
  for (const auto& [root, digest] : roots_) {
    std::vector<ChunkId> all;
    collect(root, 0, all);
    for (const ChunkId id : all) {
      if (chunks_[id].time == 0 && is_told(id)) write_time(id, now_);
    }
  }
  return num_found;
}

}  // namespace radixkv
