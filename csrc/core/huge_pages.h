// Memory in huge pages, where the system allows them.
//
// A tree that is out of the CPU's cache is out of its address cache too: with small pages, every
// step down a path costs a page walk beside the miss itself.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace radixkv {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// A private mapping that begins at a huge page's border. Zeroed; only what is touched takes room.
class Mapping {
 public:
  // Throws std::bad_alloc.
  explicit Mapping(std::size_t num_bytes);
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), num_bytes_(other.num_bytes_) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (address_ != nullptr) unmap(address_, num_bytes_);
  }

  std::byte* data() const { return static_cast<std::byte*>(address_); }
  std::size_t size() const { return num_bytes_; }

  static void* map(std::size_t num_bytes);
  static void unmap(void* address, std::size_t num_bytes);

 private:
  void* address_;
  std::size_t num_bytes_;
};

// For containers: what is larger than a huge page gets huge pages.
template <class T>
struct HugePageAllocator {
  using value_type = T;

  HugePageAllocator() = default;
  template <class Other>
  HugePageAllocator(const HugePageAllocator<Other>&) {}

  T* allocate(std::size_t count) {
    const std::size_t num_bytes = count * sizeof(T);
    if (num_bytes >= kHugePageBytes) return static_cast<T*>(Mapping::map(num_bytes));
    return static_cast<T*>(::operator new(num_bytes, std::align_val_t(alignof(T))));
  }

  void deallocate(T* items, std::size_t count) {
    const std::size_t num_bytes = count * sizeof(T);
    if (num_bytes >= kHugePageBytes) {
      Mapping::unmap(items, num_bytes);
    } else {
      ::operator delete(items, std::align_val_t(alignof(T)));
    }
  }

  friend bool operator==(const HugePageAllocator&, const HugePageAllocator&) { return true; }
};

}  // namespace radixkv
