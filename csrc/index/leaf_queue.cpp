#include "index/leaf_queue.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace radixkv {

bool LeafQueue::leaves_after(const Entry& a, const Entry& b) {
  if (a.time != b.time) return a.time > b.time;
  if (a.span != b.span) return a.span < b.span;
  return a.id > b.id;
}

bool LeafQueue::is_alive(const Entry& entry, std::uint32_t weight) const {
  return chunks_.is_current(entry.id, entry.generation) && chunks_.has(entry.id, queued_) &&
         chunks_.group(entry.id) == group_ && this->weight(entry.id) == weight;
}

void LeafQueue::insert(ChunkId id) {
  if (num_entries_ >= sweep_at_) sweep();
  const std::uint32_t at = weight(id);
  const Chunk& chunk = chunks_[id];
  const Entry entry{chunk.time, chunk.span, id, chunk.generation};
  Heap& heap = heaps_[at];
  ++num_entries_;
  if (gap_ == at) {
    gap_ = kNoWeight;
    replace_front(heap, entry);
    return;
  }
  heap.push_back(entry);
  std::push_heap(heap.begin(), heap.end(), leaves_after);
  filled_ |= 1ull << at;
}

void LeafQueue::replace_front(Heap& heap, const Entry& entry) {
  std::size_t at = 0;
  for (std::size_t child = 1; child < heap.size(); child = 2 * at + 1) {
    if (child + 1 < heap.size() && leaves_after(heap[child], heap[child + 1])) ++child;
    if (!leaves_after(entry, heap[child])) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = entry;
}

// The weight whose front leaves first, as far as the entries say. They can only be too old, so if
// the front turns out to be what it says, no other leaf comes before it. REQUIRES: some entries.
std::uint32_t LeafQueue::choose(std::uint64_t now) const {
  const auto first = static_cast<std::uint32_t>(std::countr_zero(filled_));
  const bool is_only_one = (filled_ & (filled_ - 1)) == 0;
  if (policy_.lightest_first || is_only_one) return first;
  std::uint32_t best = first;
  std::uint64_t longest = 0;
  for (std::uint64_t rest = filled_; rest != 0; rest &= rest - 1) {
    const auto weight = static_cast<std::uint32_t>(std::countr_zero(rest));
    const std::uint64_t time = heaps_[weight].front().time;
    const std::uint64_t idle = this->idle(now, time, weight);
    if (idle > longest) {
      longest = idle;
      best = weight;
    }
  }
  return best;
}

// What is lighter leaves first where the policy says so, however long it has been idle.
std::uint64_t LeafQueue::idle(std::uint64_t now, std::uint64_t time, std::uint32_t weight) const {
  if (policy_.lightest_first) return 0;
  if (policy_.learns && weight > 0) weight += ghosts_.num_steps() - kFoundOnce;
  return idle_for_weight(now > time ? now - time : 0, weight);
}

// REQUIRES: no gap.
void LeafQueue::drop_front(std::uint32_t weight) {
  Heap& heap = heaps_[weight];
  --num_entries_;
  if (heap.size() > 1) {
    gap_ = weight;
    return;
  }
  heap.clear();
  filled_ &= ~(1ull << weight);
}

void LeafQueue::close_gap() {
  if (gap_ == kNoWeight) return;
  Heap& heap = heaps_[std::exchange(gap_, kNoWeight)];
  const Entry last = heap.back();
  heap.pop_back();
  replace_front(heap, last);
}

// Makes the front of a heap what it says: true, or false where it had to be put right first.
bool LeafQueue::clean_front(std::uint32_t weight) {
  const Entry front = heaps_[weight].front();
  const bool alive = is_alive(front, weight);
  if (alive && front.time == chunks_[front.id].time) return true;
  drop_front(weight);
  if (alive) insert(front.id);
  return false;
}

std::optional<LeafQueue::Front> LeafQueue::front(std::uint64_t now) {
  while (filled_ != 0) {
    close_gap();
    const std::uint32_t weight = choose(now);
    if (!clean_front(weight)) continue;
    const Entry& front = heaps_[weight].front();
    return Front{idle(now, front.time, weight), weight, front.time, front.span, front.id};
  }
  return std::nullopt;
}

void LeafQueue::take(const Front& front) {
  drop_front(front.weight);
  forget(front.id);
}

ChunkId LeafQueue::pop(std::uint64_t now) {
  const std::optional<Front> first = front(now);
  if (!first) return kNoChunk;
  take(*first);
  return first->id;
}

ChunkId LeafQueue::pop_idle(std::uint64_t time) {
  for (std::uint32_t weight = 0; weight < kNumWeights; ++weight) {
    Heap& heap = heaps_[weight];
    close_gap();
    while (!heap.empty() && heap.front().time <= time) {
      if (!clean_front(weight)) {
        close_gap();
        continue;
      }
      const ChunkId id = heap.front().id;
      drop_front(weight);
      forget(id);
      return id;
    }
  }
  return kNoChunk;
}

bool LeafQueue::leaves_before(const Front& a, const Front& b) const {
  if (a.idle != b.idle) return a.idle > b.idle;
  if (a.weight != b.weight) return a.weight < b.weight;
  if (a.time != b.time) return a.time < b.time;
  if (a.span != b.span) return a.span > b.span;
  return a.id < b.id;
}

void LeafQueue::sweep() {
  close_gap();
  num_entries_ = 0;
  for (std::uint32_t weight = 0; weight < kNumWeights; ++weight) {
    Heap& heap = heaps_[weight];
    std::erase_if(heap, [&](const Entry& entry) { return !is_alive(entry, weight); });
    std::make_heap(heap.begin(), heap.end(), leaves_after);
    num_entries_ += heap.size();
    if (heap.empty()) filled_ &= ~(1ull << weight);
  }
  sweep_at_ = 2 * num_entries_ + 64;
}

}  // namespace radixkv
