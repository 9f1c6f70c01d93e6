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
#include <vector>

namespace radixkv {

class FlatMap {
 public:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;

  // The value of `key`, or kNone.
  std::uint32_t find(std::uint32_t key) const {
    if (slots_.empty()) return kNone;
    return slots_[slot_of(key)].value;
  }

  // Adds or replaces. REQUIRES: value != kNone.
  void set(std::uint32_t key, std::uint32_t value) {
    if ((size_ + 1) * 4 > slots_.size() * 3) grow();
    Slot& slot = slots_[slot_of(key)];
    if (slot.value == kNone) ++size_;
    slot = {key, value};
  }

  // Forgets `key`, if it is there.
  void erase(std::uint32_t key) {
    if (slots_.empty()) return;
    std::size_t hole = slot_of(key);
    if (slots_[hole].value == kNone) return;
    --size_;
    // Moves later entries of the probe run into the hole, so that no tombstone is left behind.
    for (std::size_t next = (hole + 1) & mask(); slots_[next].value != kNone;
         next = (next + 1) & mask()) {
      const std::size_t home = home_of(slots_[next].key);
      if (((next - home) & mask()) >= ((next - hole) & mask())) {
        slots_[hole] = slots_[next];
        hole = next;
      }
    }
    slots_[hole].value = kNone;
  }

  std::size_t size() const { return size_; }

  template <class Visit>
  void for_each(Visit visit) const {
    for (const Slot& slot : slots_) {
      if (slot.value != kNone) visit(slot.key, slot.value);
    }
  }

 private:
  struct Slot {
    std::uint32_t key = 0;
    std::uint32_t value = kNone;
  };

  std::size_t mask() const { return slots_.size() - 1; }

  std::size_t home_of(std::uint32_t key) const {
    return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ull) >> 32) & mask();
  }

  // The slot that holds `key`, or the empty one where it would go.
  std::size_t slot_of(std::uint32_t key) const {
    std::size_t at = home_of(key);
    while (slots_[at].value != kNone && slots_[at].key != key) at = (at + 1) & mask();
    return at;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 4 : slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.value != kNone) slots_[slot_of(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace radixkv
