// Between memory and disk: spills, fetches, and the chunks of a reopened disk.
#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#include "index/radix_index.h"

namespace radixkv {

// Ready in memory, absent on disk, and nothing speaks against writing it there.
bool RadixIndex::can_spill(ChunkId id) const {
  constexpr std::uint8_t kAgainst = state::kept(Tier::kDisk) | state::kDropped | state::kNoSpill;
  return chunks_.has(id, state::ready(Tier::kMemory)) && !chunks_.has(id, kAgainst) &&
         may_be_on_disk(id);
}

void RadixIndex::queue_spill(ChunkId id) {
  if (config_.num_units[index_of(Tier::kDisk)] == 0 || !can_spill(id)) return;
  spill_queue_.emplace_back(id, chunks_[id].generation);
}

// The common case of a prompt that is completed from its front: the next chunk of the same node is
// the only one that follows, and not ready in memory.
bool RadixIndex::has_only_child_unready(ChunkId id) const {
  const Node& node = tree_[chunks_.node(id)];
  if (chunks_.end(id) + span_tokens() > node.end()) return false;
  for (ChunkId tail = node.first_tail; tail != kNoChunk; tail = chunks_.next_tail(tail)) {
    if (chunks_[tail].parent == id) return false;
  }
  return !chunks_.has(id + 1, state::ready(Tier::kMemory));
}

// Chunks below that were ready before their parent have been skipped so far. Below one that is not
// ready they wait for that one.
void RadixIndex::queue_spill_with_all_below(ChunkId id) {
  if (config_.num_units[index_of(Tier::kDisk)] == 0) return;
  queue_spill(id);
  if (chunks_.is_tail(id) || chunks_[id].num_children[index_of(Tier::kMemory)] == 0) return;
  if (has_only_child_unready(id)) return;
  std::vector<ChunkId> below;
  collect(chunks_.node(id), chunks_.end(id) + 1, below);
  for (const ChunkId deeper : below) queue_spill(deeper);
}

// The chunks from the first ancestor that disk does not keep down to `id`; empty where one of them
// cannot be spilled now.
std::vector<ChunkId> RadixIndex::spill_chain(ChunkId id) const {
  std::vector<ChunkId> chain;
  while (id != kNoChunk && !chunks_.has(id, state::kept(Tier::kDisk))) {
    if (!can_spill(id)) return {};
    chain.push_back(id);
    id = chunks_[id].parent;
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

// Whether the chunk is one of a path's, of which `run` is a part without gaps.
bool RadixIndex::is_on(const std::vector<ChunkId>& run, ChunkId id) const {
  const std::uint32_t at = chunks_[id].span - chunks_[run.front()].span;
  return at < run.size() && run[at] == id;
}

// Pops chunks of one path from the queue, parents first.
std::vector<ChunkId> RadixIndex::pop_spill_run(std::size_t max_chunks) {
  std::vector<ChunkId> run;
  while (run.size() < max_chunks && !spill_queue_.empty()) {
    const auto [id, generation] = spill_queue_.front();
    if (run.empty()) {
      if (chunks_.is_current(id, generation)) run = spill_chain(id);
    } else if (chunks_.is_current(id, generation) && can_spill(id) && !is_on(run, id)) {
      if (chunks_[id].parent != run.back()) break;
      run.push_back(id);
    }
    if (run.size() > max_chunks) {
      run.resize(max_chunks);  // the queue still has the chunk that asked for all of them
      break;
    }
    spill_queue_.pop_front();
  }
  return run;
}

SpillReservation RadixIndex::reserve_spill(std::size_t max_chunks) {
  SpillReservation result;
  const std::vector<ChunkId> run = pop_spill_run(max_chunks);
  if (run.empty()) return result;
  std::vector<std::uint16_t> num_units;
  for (const ChunkId id : run) num_units.push_back(chunks_[id].num_units);
  const std::vector<std::uint32_t> offsets = take_extents(Tier::kDisk, num_units);
  for (std::size_t i = run.size(); i-- > offsets.size();) {
    result.missing_units += num_units[i];
    spill_queue_.emplace_front(run[i], chunks_[run[i]].generation);
  }
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    add_use(run[i], Tier::kMemory);
    begin_writing(run[i], Tier::kDisk, offsets[i], num_units[i]);
    result.chunks.push_back(ref(run[i]));
    append_tokens(run[i], result.tokens);
  }
  result.digest = digest_of(run.front());
  evict_for_quotas(Tier::kDisk, groups_of(run), {});
  return result;
}

// A header is cleared when its extent is written over, so those of small chunks that left may stay
// for long beside those of the chunks that are there.
void RadixIndex::note_remains(ChunkId id) {
  const ChunkRef chunk = ref(id);
  tier(Tier::kDisk).remains.emplace(chunk.disk_offset, chunk);
}

void RadixIndex::forget_remains(ChunkId id) {
  auto& remains = tier(Tier::kDisk).remains;
  const std::uint32_t begin = chunks_[id].offset[index_of(Tier::kDisk)];
  const std::uint32_t end = begin + chunks_[id].num_units;
  auto at = remains.lower_bound(begin);
  if (at != remains.begin() && std::prev(at)->first + std::prev(at)->second.num_units > begin) --at;
  while (at != remains.end() && at->first < end) at = remains.erase(at);
}

std::vector<ChunkRef> RadixIndex::take_remains(bool all) {
  TierState& disk = tier(Tier::kDisk);
  std::vector<ChunkRef> taken;
  while (!disk.remains.empty() &&
         (all || disk.num_extents + disk.remains.size() > disk.max_chunks)) {
    taken.push_back(disk.remains.begin()->second);
    disk.remains.erase(disk.remains.begin());
  }
  return taken;
}

const NamespaceDigest& RadixIndex::digest_of(ChunkId id) const {
  NodeId node = chunks_.node(id);
  while (tree_[node].parent != kNoNode) node = tree_[node].parent;
  return roots_[root_by_node_.at(node)].second;
}

void RadixIndex::append_tokens(ChunkId id, std::vector<Token>& out) const {
  const std::uint32_t start = chunks_.start(id);
  std::uint32_t end = chunks_.end(id);
  out.resize(out.size() + (end - start));
  Token* behind = out.data() + out.size();
  for (NodeId node = chunks_.node(id); end > start; node = tree_[node].parent) {
    const Node& here = tree_[node];
    const std::uint32_t first = std::max(here.start, start);
    behind -= end - first;
    std::copy_n(here.run.data() + (first - here.start), end - first, behind);
    end = first;
  }
}

void RadixIndex::complete_spill(std::span<const ChunkRef> chunks, std::size_t num_ok, bool retry) {
  require_uses(chunks, Tier::kMemory, false);
  require_uses(chunks, Tier::kDisk, true);
  num_ok = std::min(num_ok, chunks.size());
  for (const ChunkRef& chunk : chunks.first(num_ok)) {
    if (end_use(chunk, Tier::kDisk)) set_ready(chunk.id, Tier::kDisk);
  }
  fail_writing(chunks.subspan(num_ok), Tier::kDisk);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const ChunkRef& chunk = chunks[i];
    end_reading(chunk, Tier::kMemory);
    // One that is done may have lost its place to a parent that failed.
    if (!chunks_.is_current(chunk.id, chunk.generation)) continue;
    // A tail that disk gave up at once, for a longer chunk, would be written again for ever.
    const bool needless = i < num_ok && chunks_.is_tail(chunk.id) &&
                          is_covered(chunk.id, Tier::kDisk, least_cover(chunk.id));
    const bool failed = i >= num_ok && !retry;
    if ((needless || failed) && can_spill(chunk.id)) chunks_.state(chunk.id) |= state::kNoSpill;
    queue_spill(chunk.id);
  }
}

Reservation RadixIndex::reserve_fetch(const Pin& pin, std::size_t max_chunks) {
  std::vector<ChunkId> path;
  for (ChunkId id = pin.last; id != kNoChunk; id = chunks_[id].parent) path.push_back(id);
  std::reverse(path.begin(), path.end());
  std::vector<ChunkId> wanted;
  std::vector<std::uint16_t> num_units;
  for (const ChunkId id : path) {
    if (chunks_.has(id, state::kept(Tier::kMemory))) continue;
    const bool can_come = chunks_.is_visible(id, Tier::kDisk);
    if (!can_come || wanted.size() == max_chunks) break;
    wanted.push_back(id);
    num_units.push_back(chunks_[id].num_units);
  }
  const std::vector<MarkId> groups = groups_of(wanted);
  evict_for_quotas(Tier::kMemory, groups, num_units);
  const std::size_t num_allowed = count_within_quotas(Tier::kMemory, groups, num_units);
  wanted.resize(num_allowed);
  num_units.resize(num_allowed);
  Reservation result;
  const std::vector<std::uint32_t> offsets = take_extents(Tier::kMemory, num_units);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (i >= offsets.size()) {
      result.missing_units += num_units[i];
      continue;
    }
    add_use(wanted[i], Tier::kDisk);
    begin_writing(wanted[i], Tier::kMemory, offsets[i], num_units[i]);
    result.chunks.push_back(ref(wanted[i]));
  }
  return result;
}

void RadixIndex::complete_fetch(std::span<const ChunkRef> chunks, std::size_t num_ok,
                                bool corrupt) {
  require_uses(chunks, Tier::kMemory, true);
  require_uses(chunks, Tier::kDisk, false);
  num_ok = std::min(num_ok, chunks.size());
  for (const ChunkRef& chunk : chunks.first(num_ok)) {
    if (end_use(chunk, Tier::kMemory)) set_ready(chunk.id, Tier::kMemory);
  }
  fail_writing(chunks.subspan(num_ok), Tier::kMemory);
  for (const ChunkRef& chunk : chunks) end_reading(chunk, Tier::kDisk);
  if (!corrupt || num_ok == chunks.size()) return;
  const ChunkRef& bad = chunks[num_ok];
  if (chunks_.is_current(bad.id, bad.generation) &&
      chunks_[bad.id].offset[index_of(Tier::kDisk)] == bad.disk_offset) {
    ++tier(Tier::kDisk).num_failed;
    vacate_with_all_below(bad.id, Tier::kDisk);
  }
}

}  // namespace radixkv
