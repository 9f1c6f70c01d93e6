// XXH3-64, the checksum of headers and payloads, with the widest vectors that this CPU has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace radixkv {

// Thread safety: any thread. Equal on all CPUs.
std::uint64_t xxh3_64(const void* data, std::size_t num_bytes);

}  // namespace radixkv
