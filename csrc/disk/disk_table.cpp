#include "disk/disk_table.h"

namespace radixkv {

DiskTable::DiskTable(std::uint32_t num_units, std::uint32_t num_headers)
    : entries_(num_headers), slot_of_unit_(num_units, kNoSlot) {}

std::uint32_t DiskTable::find(std::uint32_t disk_offset) const {
  if (disk_offset >= slot_of_unit_.size()) return kNoSlot;
  const std::uint32_t slot = slot_of_unit_[disk_offset];
  return slot != kNoSlot && entries_[slot].disk_offset == disk_offset ? slot : kNoSlot;
}

std::uint32_t DiskTable::find_chunk(const ChunkRef& chunk) const {
  const std::uint32_t slot = find(chunk.disk_offset);
  if (slot == kNoSlot) return kNoSlot;
  const DiskEntry& entry = entries_[slot];
  if (entry.num_units != chunk.num_units || entry.num_tokens != chunk.num_tokens) return kNoSlot;
  if (!entry.bound) return entry.span == chunk.span ? slot : kNoSlot;
  return entry.id == chunk.id && entry.generation == chunk.generation ? slot : kNoSlot;
}

std::vector<std::uint32_t> DiskTable::overlapping(const ChunkRef& chunk) const {
  std::vector<std::uint32_t> slots;
  for (std::uint32_t i = 0; i < chunk.num_units; ++i) {
    const std::uint32_t slot = slot_of_unit_[chunk.disk_offset + i];
    // An extent is one run of units, so its slot repeats without a gap.
    if (slot != kNoSlot && (slots.empty() || slots.back() != slot)) slots.push_back(slot);
  }
  return slots;
}

std::uint32_t DiskTable::take(const DiskEntry& entry) {
  std::uint32_t slot = kNoSlot;
  if (!freed_.empty()) {
    slot = freed_.top();
    freed_.pop();
  } else if (next_unused_ < entries_.size()) {
    slot = next_unused_++;
  } else {
    return kNoSlot;
  }
  put(slot, entry);
  return slot;
}

void DiskTable::restore(std::uint32_t slot, const DiskEntry& entry) {
  for (; next_unused_ < slot; ++next_unused_) freed_.push(next_unused_);
  next_unused_ = slot + 1;
  put(slot, entry);
}

void DiskTable::release(std::uint32_t slot) {
  const DiskEntry& entry = entries_[slot];
  for (std::uint32_t i = 0; i < entry.num_units; ++i) {
    slot_of_unit_[entry.disk_offset + i] = kNoSlot;
  }
  entries_[slot] = DiskEntry{};
  freed_.push(slot);
}

void DiskTable::put(std::uint32_t slot, const DiskEntry& entry) {
  entries_[slot] = entry;
  for (std::uint32_t i = 0; i < entry.num_units; ++i) {
    slot_of_unit_[entry.disk_offset + i] = slot;
  }
}

}  // namespace radixkv
