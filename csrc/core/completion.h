// What a command asks for and how it ended; the native side of Completion in commands.py.
#pragma once

#include <cstdint>

namespace radixkv {

enum class CommandKind : std::uint8_t {
  kStore,
  kLoad,
  kSpill,
  kFetch,
  kClear,
  kPut,
  kGet,
  kLookup,
};
inline constexpr int kNumCommandKinds = 8;

// The same numbers as CompletionStatus in commands.py.
enum class CompletionStatus : std::uint8_t {
  kOk = 0,
  kFailed = 1,   // the operating system refused, or the tier is cut off
  kCorrupt = 2,  // the chunk at num_ok did not match its checksum or generation
  kFull = 3,     // the device has no room
  kAbsent = 4,   // the tier does not have the chunk at num_ok
};

// A command ended: its first `num_ok` chunks are done, the rest are not.
struct Completion {
  std::int64_t command_id = 0;
  std::int32_t num_ok = 0;
  CompletionStatus status = CompletionStatus::kOk;
};

}  // namespace radixkv
