// What the disk thread's halves (Spiller, Fetcher) share: commands on their way, and their tools.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/chunk_key.h"
#include "core/completion.h"
#include "core/types.h"
#include "core/unit_tags.h"
#include "disk/disk_file.h"
#include "disk/disk_table.h"

namespace radixkv {

// REQUIRES: extents within the tiers, num_tokens within the chunk, chunks' tokens as many as they
// say.
struct DiskCommand {
  CommandKind kind = CommandKind::kFetch;  // kSpill, kFetch or kClear
  std::int64_t id = 0;
  std::vector<ChunkRef> chunks;
  std::vector<Token> tokens;      // of a spill: every chunk's, one after the other
  Digest namespace_digest{};      // of a spill
  std::uint64_t sequence = 0;     // of a spill's first chunk
  bool injected_failure = false;  // a test wants it to fail without being begun
};

// Called on the disk thread; must not block.
using DiskCompletionSink =
    std::function<void(CommandKind kind, const Completion& completion, std::int64_t num_bytes)>;

// A command of which some chunks are begun. Chunks from `num_good` on have failed or are not worth
// beginning.
struct RunningCommand {
  explicit RunningCommand(DiskCommand&& from)
      : command(std::move(from)), num_good(command.chunks.size()) {
    if (command.injected_failure) fail(0, CompletionStatus::kFailed);
  }

  void fail(std::size_t index, CompletionStatus why) {
    if (index >= num_good) return;
    num_good = index;
    status = why;
  }
  bool all_begun() const { return next >= num_good; }
  bool ended() const { return all_begun() && num_in_flight == 0; }
  Completion completion() const {
    return {command.id, static_cast<std::int32_t>(num_good), status};
  }

  DiskCommand command;
  std::size_t next = 0;  // first chunk not begun
  std::size_t num_good;
  int num_in_flight = 0;
  CompletionStatus status = CompletionStatus::kOk;
};

// Where commands find things. The pointers outlive the halves.
struct DiskContext {
  DiskShape shape;
  std::int64_t token_bytes = 0;
  const DiskFile* file = nullptr;
  DiskTable* table = nullptr;
  UnitTags* tags = nullptr;
  std::byte* pool = nullptr;
  DiskCompletionSink sink;

  std::span<std::byte> memory_extent(const ChunkRef& chunk) const {
    return {pool + std::int64_t{chunk.memory_offset} * shape.unit_bytes,
            static_cast<std::size_t>(extent_bytes(chunk))};
  }
  std::int64_t extent_bytes(const ChunkRef& chunk) const {
    return std::int64_t{chunk.num_units} * shape.unit_bytes;
  }
};

inline CompletionStatus status_of_errno(int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? CompletionStatus::kFull : CompletionStatus::kFailed;
}

}  // namespace radixkv
