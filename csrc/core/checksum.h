// XXH3-64, the checksum of headers and payloads, with the widest vectors that this CPU has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace radixkv {

// Thread safety: any thread. Equal on all CPUs.
std::uint64_t xxh3_64(const void* data, std::size_t num_bytes);

// The same over bytes that come piece by piece: each is read while it is still in the cache.
//
// Thread safety: one thread.
class StreamedChecksum {
 public:
  StreamedChecksum();
  ~StreamedChecksum();
  StreamedChecksum(const StreamedChecksum&) = delete;
  StreamedChecksum& operator=(const StreamedChecksum&) = delete;

  void add(std::span<const std::byte> bytes);

  // Of all that was added.
  std::uint64_t value() const;

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace radixkv
