// Keeping in memory: room for chunks that come from the engine.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "index/radix_index.h"

namespace radixkv {

std::uint16_t RadixIndex::units_of(std::uint32_t num_tokens) const {
  const std::int64_t num_bytes = config_.token_bytes * num_tokens;
  return static_cast<std::uint16_t>((num_bytes + config_.unit_bytes - 1) / config_.unit_bytes);
}

Reservation RadixIndex::reserve(NamespaceId space, const TokenView& tokens, std::uint64_t time,
                                bool tail) {
  const Taken taken = take_chunks(space, tokens, time, tail);
  Reservation result;
  result.missing_units = taken.missing_units;
  result.chunks.reserve(taken.ids.size());
  for (const ChunkId id : taken.ids) result.chunks.push_back(ref(id));
  return result;
}

RadixIndex::Taken RadixIndex::take_chunks(NamespaceId space, const TokenView& tokens,
                                          std::uint64_t time, bool tail) {
  make_quota_room(space, tokens, tail);
  Path path = walk(space, tokens);
  Plan plan = plan_reserve(space, tokens, path, tail);
  cut_to_quotas(path, plan);
  // Copied before anything changes, since an id out of range is refused here.
  TokenRun fresh;
  if (plan.end > path.point.position) {
    fresh = TokenRun(arena_, tokens, path.point.position, plan.end - path.point.position);
  }
  Taken result;
  const std::vector<std::uint32_t> offsets = take_extents(Tier::kMemory, plan.num_units);
  const std::size_t num_taken = offsets.size();
  for (std::size_t i = num_taken; i < plan.num_units.size(); ++i) {
    result.missing_units += plan.num_units[i];
  }
  if (num_taken == 0) {
    const Match kept = match(space, tokens);
    if (kept.last != kNoChunk) note_use(kept.last, time);
    return result;
  }
  std::uint32_t end = plan.end;
  if (num_taken < plan.num_units.size()) {
    end = static_cast<std::uint32_t>(plan.first + num_taken) * span_tokens();
    if (end > path.point.position) {
      fresh = TokenRun(arena_, tokens, path.point.position, end - path.point.position);
    }
  }
  result.ids = make_records(path, fresh, end, kNoChunk);
  const auto first = result.ids.begin() + static_cast<std::ptrdiff_t>(plan.first);
  result.ids.erase(result.ids.begin(), first);
  result.ids.resize(num_taken);
  for (std::size_t i = 0; i < num_taken; ++i) {
    begin_writing(result.ids[i], Tier::kMemory, offsets[i], plan.num_units[i]);
  }
  const ChunkId above = chunks_[result.ids.front()].parent;
  if (above != kNoChunk) count_use(above, time);
  write_time(result.ids.back(), time);
  return result;
}

// How many of a path's chunks, from the first, were not dropped: mostly all, and that fast.
std::size_t RadixIndex::count_undropped(std::span<const ChunkId> path) const {
  std::uint8_t any = 0;
  for (const ChunkId id : path) any |= chunks_.state(id);
  if ((any & state::kDropped) == 0) return path.size();
  const auto first = std::find_if(path.begin(), path.end(),
                                  [this](ChunkId id) { return chunks_.has(id, state::kDropped); });
  return static_cast<std::size_t>(first - path.begin());
}

// Which chunks of the tokens memory does not keep: from span `first` on, all of them.
RadixIndex::Plan RadixIndex::plan_reserve(NamespaceId space, const TokenView& tokens,
                                          const Path& path, bool tail) const {
  std::size_t num_full = tokens.size() / span_tokens();
  const std::size_t num_tail_tokens = tokens.size() % span_tokens();
  Plan plan;
  plan.first = count_undropped(path.chunks);
  // Nothing is stored below a chunk that was dropped and is still pinned.
  const bool ends_dropped = plan.first < path.chunks.size();
  if (ends_dropped) num_full = plan.first;
  const std::uint8_t in_memory = state::kept(Tier::kMemory);
  while (plan.first > 0 && !chunks_.has(path.chunks[plan.first - 1], in_memory)) --plan.first;
  plan.num_units.assign(num_full - plan.first, units_of(span_tokens()));
  plan.end = static_cast<std::uint32_t>(num_full) * span_tokens();
  if (!tail || num_tail_tokens == 0 || ends_dropped) return plan;
  if (path.point.position == tokens.size()) {
    const ChunkId existing = find_tail(path.point.node, path.point.position);
    const std::uint8_t in_the_way = state::kept(Tier::kMemory) | state::kDropped;
    if (existing != kNoChunk && chunks_.has(existing, in_the_way)) return plan;
  }
  if (plan.num_units.empty()) {
    const auto kept = match(space, tokens).num_memory_tokens;
    const auto slack = std::min<std::size_t>(config_.tail_slack, num_tail_tokens - 1);
    if (kept + slack >= tokens.size()) return plan;
  }
  plan.end = static_cast<std::uint32_t>(tokens.size());
  plan.num_units.push_back(units_of(static_cast<std::uint32_t>(num_tail_tokens)));
  return plan;
}

// The ids of the path's chunks up to `end`, with records made for those that have none. `fresh` are
// the tokens from the path's point to `end`; `parent` is the chunk above the path's first.
std::vector<ChunkId> RadixIndex::make_records(Path& path, const TokenRun& fresh, std::uint32_t end,
                                              ChunkId parent) {
  if (end > path.point.position) {
    grow(path, fresh, path.chunks.empty() ? parent : path.chunks.back());
  }
  if (end % span_tokens() != 0) {
    const ChunkId tail = find_tail(path.point.node, end);
    if (!path.chunks.empty()) parent = path.chunks.back();
    path.chunks.push_back(tail != kNoChunk ? tail : add_tail(path.point, parent));
  }
  return std::move(path.chunks);
}

void RadixIndex::complete_store(std::span<const ChunkRef> chunks, std::size_t num_ok) {
  require_uses(chunks, Tier::kMemory, true);
  num_ok = std::min(num_ok, chunks.size());
  for (const ChunkRef& chunk : chunks.first(num_ok)) {
    if (end_use(chunk, Tier::kMemory)) set_ready(chunk.id, Tier::kMemory);
  }
  fail_writing(chunks.subspan(num_ok), Tier::kMemory);
}

// Deepest first, so that a chunk's own failure is not mistaken for its parent's.
void RadixIndex::fail_writing(std::span<const ChunkRef> chunks, Tier which) {
  for (auto chunk = chunks.rbegin(); chunk != chunks.rend(); ++chunk) {
    ++tier(which).num_failed;
    if (end_use(*chunk, which)) vacate_with_all_below(chunk->id, which);
  }
}

std::size_t RadixIndex::insert(NamespaceId space, const TokenView& tokens, std::uint64_t time) {
  Taken taken = take_chunks(space, tokens, time, true);
  std::vector<ChunkId> added = std::move(taken.ids);
  Pin pin;
  if (taken.missing_units > 0) {
    // Evicting must not take the path that is being extended.
    pin = acquire(space, tokens, std::nullopt);
    while (taken.missing_units > 0 && !evict(Tier::kMemory, taken.missing_units).empty()) {
      taken = take_chunks(space, tokens, time, true);
      added.insert(added.end(), taken.ids.begin(), taken.ids.end());
    }
  }
  for (const ChunkId id : added) finish_writing(id, Tier::kMemory);
  release(pin);
  return added.size();
}

}  // namespace radixkv
