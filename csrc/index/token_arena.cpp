#include "index/token_arena.h"

#include <algorithm>
#include <new>

namespace radixkv {

namespace {

constexpr std::size_t kUnitBytes = 64;
constexpr std::size_t kLeastRegionBytes = std::size_t{64}
                                          << 20;  // address space; room as it is used

std::uint32_t units_of(std::size_t num_tokens) {
  const std::size_t num_bytes = sizeof(TokenArena::Buffer) + num_tokens * sizeof(Token);
  return static_cast<std::uint32_t>((num_bytes + kUnitBytes - 1) / kUnitBytes);
}

}  // namespace

struct Region {
  Region(TokenArena& arena, std::uint32_t num_units)
      : arena(arena), memory(std::size_t{num_units} * kUnitBytes), units(num_units) {}

  TokenArena& arena;
  Mapping memory;
  ExtentAllocator units;
};

TokenArena::TokenArena() = default;
TokenArena::~TokenArena() = default;

TokenArena::Buffer* TokenArena::take(std::size_t num_tokens) {
  const std::uint32_t num_units = units_of(num_tokens);
  Region* region = nullptr;
  std::optional<Extent> extent;
  // The last region is the largest and the one with room, mostly.
  for (auto at = regions_.rbegin(); at != regions_.rend() && !extent; ++at) {
    region = at->get();
    extent = region->units.take(num_units);
  }
  if (!extent) {
    // A quarter more each time, so that there are few regions.
    const std::uint64_t wanted = std::max<std::uint64_t>(
        {num_bytes_ / 4, std::uint64_t{num_units} * kUnitBytes, kLeastRegionBytes});
    const std::uint64_t rounded = (wanted + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
    regions_.push_back(
        std::make_unique<Region>(*this, static_cast<std::uint32_t>(rounded / kUnitBytes)));
    num_bytes_ += rounded;
    region = regions_.back().get();
    extent = region->units.take(num_units);
  }
  std::byte* memory = region->memory.data() + std::size_t{extent->offset} * kUnitBytes;
  return new (memory) Buffer{region, 1, static_cast<std::uint32_t>(num_tokens)};
}

void TokenArena::give_back(Buffer* buffer) {
  Region& region = *buffer->region;
  const auto from_start = reinterpret_cast<std::byte*>(buffer) - region.memory.data();
  region.units.give_back({static_cast<std::uint32_t>(from_start / std::ptrdiff_t{kUnitBytes}),
                          units_of(buffer->num_tokens)});
  TokenArena& arena = region.arena;
  if (region.units.num_free() < region.units.num_units() ||
      &region == arena.regions_.back().get()) {
    return;
  }
  arena.num_bytes_ -= region.memory.size();
  std::erase_if(arena.regions_, [&](const auto& one) { return one.get() == &region; });
}

TokenArena& TokenArena::of(const Buffer* buffer) { return buffer->region->arena; }

}  // namespace radixkv
