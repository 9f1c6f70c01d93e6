// FlatMap maps 32-bit keys to 32-bit values in one array: no allocation an entry, one cache line a
// look-up.
//
//   [ key value | empty | key value | key value | … ]     linear probing, a power of two of slots
//
// Every key may be stored; the value `kNone` may not (it marks an empty slot).
// Thread safety: reads may run beside each other, a write needs the map alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace radixkv {

class FlatMap {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;

  // The value of `key`, or kNone.
  std::uint32_t find(std::uint32_t key) const {
    if (!slots_) return kNone;
    return slots_[slot_of(key)].value;
  }

  // Adds or replaces. REQUIRES: value != kNone.
  void set(std::uint32_t key, std::uint32_t value) {
    if ((size_ + 1) * 4 > num_slots() * 3) grow();
    Slot& slot = slots_[slot_of(key)];
    if (slot.value == kNone) ++size_;
    slot = {key, value};
  }

  // Forgets `key`, if it is there.
  void erase(std::uint32_t key) {
    if (!slots_) return;
    std::uint32_t hole = slot_of(key);
    if (slots_[hole].value == kNone) return;
    --size_;
    // Moves later entries of the probe run into the hole, so that no tombstone is left behind.
    for (std::uint32_t next = (hole + 1) & mask_; slots_[next].value != kNone;
         next = (next + 1) & mask_) {
      const std::uint32_t home = home_of(slots_[next].key);
      if (((next - home) & mask_) >= ((next - hole) & mask_)) {
        slots_[hole] = slots_[next];
        hole = next;
      }
    }
    slots_[hole].value = kNone;
  }

  std::uint32_t size() const { return size_; }

  template <class Visit>
  void for_each(Visit visit) const {
    for (std::uint32_t at = 0; at < num_slots(); ++at) {
      if (slots_[at].value != kNone) visit(slots_[at].key, slots_[at].value);
    }
  }

 private:
  struct Slot {
    std::uint32_t key = 0;
    std::uint32_t value = kNone;
  };

  std::uint32_t num_slots() const { return slots_ ? mask_ + 1 : 0; }

  std::uint32_t home_of(std::uint32_t key) const {
    return static_cast<std::uint32_t>((key * 0x9E3779B97F4A7C15ull) >> 32) & mask_;
  }

  // The slot that holds `key`, or the empty one where it would go.
  std::uint32_t slot_of(std::uint32_t key) const {
    std::uint32_t at = home_of(key);
    while (slots_[at].value != kNone && slots_[at].key != key) at = (at + 1) & mask_;
    return at;
  }

  void grow() {
    const std::uint32_t old_count = num_slots();
    const std::uint32_t count = old_count == 0 ? 4 : old_count * 2;
    const std::unique_ptr<Slot[]> old = std::move(slots_);
    slots_ = std::make_unique<Slot[]>(count);
    mask_ = count - 1;
    for (std::uint32_t at = 0; at < old_count; ++at) {
      if (old[at].value != kNone) slots_[slot_of(old[at].key)] = old[at];
    }
  }

  std::unique_ptr<Slot[]> slots_;
  std::uint32_t mask_ = 0;  // number of slots less 1
  std::uint32_t size_ = 0;
};

}  // namespace radixkv
