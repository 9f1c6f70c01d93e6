#include "index/extent_allocator.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

namespace radixkv {

namespace {

// How many runs of a shared list are tried before a longer list is taken: keeps take() O(1).
constexpr int kTries = 8;

}  // namespace

ExtentAllocator::ExtentAllocator(std::uint32_t num_units) : num_units_(num_units) {
  heads_.fill(kNil);
  if (num_units > 0) add_run({0, num_units});
  num_free_ = num_units;
}

std::uint32_t ExtentAllocator::list_of(std::uint32_t length) {
  if (length <= kExact) return length - 1;
  return kExact - 1 + static_cast<std::uint32_t>(std::bit_width(length)) - 4;
}

void ExtentAllocator::add_run(Extent extent) {
  std::uint32_t run;
  if (spare_runs_.empty()) {
    run = static_cast<std::uint32_t>(runs_.size());
    runs_.emplace_back();
  } else {
    run = spare_runs_.back();
    spare_runs_.pop_back();
  }
  const std::uint32_t list = list_of(extent.num_units);
  runs_[run] = {extent, kNil, heads_[list]};
  if (heads_[list] != kNil) runs_[heads_[list]].previous = run;
  heads_[list] = run;
  filled_lists_ |= 1ull << list;
  run_at_start_.set(extent.offset, run);
  run_at_end_.set(extent.offset + extent.num_units, run);
}

void ExtentAllocator::remove_run(std::uint32_t run) {
  const Run gone = runs_[run];
  const std::uint32_t list = list_of(gone.extent.num_units);
  if (gone.previous != kNil) runs_[gone.previous].next = gone.next;
  if (gone.next != kNil) runs_[gone.next].previous = gone.previous;
  if (heads_[list] == run) heads_[list] = gone.next;
  if (heads_[list] == kNil) filled_lists_ &= ~(1ull << list);
  run_at_start_.erase(gone.extent.offset);
  run_at_end_.erase(gone.extent.offset + gone.extent.num_units);
  spare_runs_.push_back(run);
}

Extent ExtentAllocator::carve(std::uint32_t run, std::uint32_t num_units) {
  const Extent whole = runs_[run].extent;
  const Extent rest{whole.offset + num_units, whole.num_units - num_units};
  if (rest.num_units > 0 && list_of(rest.num_units) == list_of(whole.num_units)) {
    // The common case of a long run that stays in its list: only its start moves.
    run_at_start_.erase(whole.offset);
    run_at_start_.set(rest.offset, run);
    runs_[run].extent = rest;
  } else {
    remove_run(run);
    if (rest.num_units > 0) add_run(rest);
  }
  num_free_ -= num_units;
  return {whole.offset, num_units};
}

std::optional<Extent> ExtentAllocator::take(std::uint32_t num_units) {
  file_growing();
  const std::uint32_t own = list_of(num_units);
  std::uint32_t run = heads_[own];
  for (int tries = 0; run != kNil && tries < kTries; ++tries, run = runs_[run].next) {
    if (runs_[run].extent.num_units >= num_units) return carve(run, num_units);
  }
  const std::uint64_t longer = filled_lists_ & ~((2ull << own) - 1);
  if (longer != 0) return carve(heads_[std::countr_zero(longer)], num_units);
  for (; run != kNil; run = runs_[run].next) {
    if (runs_[run].extent.num_units >= num_units) return carve(run, num_units);
  }
  return std::nullopt;
}

std::optional<Extent> ExtentAllocator::take_shorter(std::uint32_t num_units) {
  file_growing();
  const std::uint64_t shorter = filled_lists_ & ((1ull << list_of(num_units)) - 1);
  if (shorter == 0) return std::nullopt;
  const std::uint32_t run = heads_[std::bit_width(shorter) - 1];
  return carve(run, runs_[run].extent.num_units);
}

Extent ExtentAllocator::shrink(Extent extent, std::uint32_t num_units) {
  if (num_units < extent.num_units) {
    give_back({extent.offset + num_units, extent.num_units - num_units});
  }
  return {extent.offset, num_units};
}

void ExtentAllocator::give_back(Extent extent) {
  num_free_ += extent.num_units;
  if (extent.offset + extent.num_units == growing_.offset) {
    growing_ = {extent.offset, extent.num_units + growing_.num_units};
  } else if (growing_.offset + growing_.num_units == extent.offset) {
    growing_.num_units += extent.num_units;
  } else {
    file_growing();
    growing_ = extent;
  }
}

void ExtentAllocator::file_growing() {
  if (growing_.num_units == 0) return;
  Extent extent = std::exchange(growing_, {0, 0});
  const std::uint32_t left = run_at_end_.find(extent.offset);
  const std::uint32_t right = run_at_start_.find(extent.offset + extent.num_units);
  if (left != kNil) {
    extent = {runs_[left].extent.offset, runs_[left].extent.num_units + extent.num_units};
    remove_run(left);
  }
  if (right != kNil) {
    extent.num_units += runs_[right].extent.num_units;
    remove_run(right);
  }
  add_run(extent);
}

void ExtentAllocator::occupy(std::span<const Extent> extents) {
  std::vector<Extent> sorted(extents.begin(), extents.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  std::uint64_t end = 0;
  for (const Extent& extent : sorted) {
    const std::uint64_t next_end = std::uint64_t{extent.offset} + extent.num_units;
    if (extent.offset < end || next_end > num_units_) {
      throw std::invalid_argument("disk_offset: expected disjoint extents in 0 … " +
                                  std::to_string(num_units_) + ", got one at " +
                                  std::to_string(extent.offset));
    }
    end = next_end;
  }
  if (num_units_ > 0) remove_run(heads_[std::bit_width(filled_lists_) - 1]);
  std::uint32_t free_from = 0;
  for (const Extent& extent : sorted) {
    if (extent.offset > free_from) add_run({free_from, extent.offset - free_from});
    free_from = extent.offset + extent.num_units;
    num_free_ -= extent.num_units;
  }
  if (num_units_ > free_from) add_run({free_from, num_units_ - free_from});
}

void ExtentAllocator::check_invariants() const {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::logic_error(std::string("extents: ") + what);
  };
  std::uint64_t num_free = growing_.num_units;
  std::size_t num_runs = 0;
  for (std::uint32_t list = 0; list < kNumLists; ++list) {
    require((heads_[list] != kNil) == ((filled_lists_ >> list & 1) != 0), "list bit is wrong");
    for (std::uint32_t run = heads_[list]; run != kNil; run = runs_[run].next) {
      const Extent extent = runs_[run].extent;
      require(list_of(extent.num_units) == list, "run is in the wrong list");
      require(run_at_start_.find(extent.offset) == run, "run is not found by its start");
      require(run_at_end_.find(extent.offset + extent.num_units) == run,
              "run is not found by its end");
      require(run_at_end_.find(extent.offset) == kNil, "two free runs touch");
      num_free += extent.num_units;
      ++num_runs;
    }
  }
  require(num_free == num_free_, "free units are miscounted");
  require(num_runs == run_at_start_.size() && num_runs == run_at_end_.size(), "a run was lost");
}

}  // namespace radixkv
