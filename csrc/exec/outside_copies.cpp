// Executor's part in copies that a GPU carries out: whose bytes are where, and who hears of the
// end.
#include <algorithm>
#include <cstring>

#include "exec/executor.h"

namespace radixkv {

bool Executor::begin_outside(CommandKind kind, std::int64_t command_id,
                             std::span<const ChunkRef> chunks, std::size_t num_slots) {
  check_copy(kind, chunks, num_slots);
  const InjectedFault fault = take_fault(kind);
  const std::chrono::duration<double> delay(fault.delay_s);
  completions_.submitted(kind, command_id,
                         std::chrono::duration_cast<CompletionQueue::Clock::duration>(delay));
  const bool is_there = kind == CommandKind::kStore ||
                        std::all_of(chunks.begin(), chunks.end(),
                                    [this](const ChunkRef& chunk) { return tags_.holds(chunk); });
  if (fault.fail || !is_there) {
    const auto status = fault.fail ? CompletionStatus::kFailed : CompletionStatus::kCorrupt;
    completions_.ended(kind, Completion{command_id, 0, status}, 0);
    return false;
  }
  if (kind == CommandKind::kStore) {
    for (const ChunkRef& chunk : chunks) {
      tags_.wipe(chunk);
      clear_padding(chunk);
    }
  }
  return true;
}

void Executor::end_outside(CommandKind kind, std::int64_t command_id,
                           std::span<const ChunkRef> chunks, bool ok) {
  std::int64_t num_bytes = 0;
  for (const ChunkRef& chunk : chunks) {
    if (ok && kind == CommandKind::kStore) tags_.set(chunk);
    num_bytes += chunk.count * context_.token_bytes();
  }
  const auto num_ok = ok ? static_cast<std::int32_t>(chunks.size()) : 0;
  const auto status = ok ? CompletionStatus::kOk : CompletionStatus::kFailed;
  completions_.ended(kind, Completion{command_id, num_ok, status}, ok ? num_bytes : 0);
}

// What lies behind a chunk's bytes in its extent goes to disk with it: it must not be another's.
void Executor::clear_padding(const ChunkRef& chunk) {
  const std::int64_t begin = std::int64_t{chunk.memory_offset} * options_.unit_bytes;
  const std::int64_t stored = chunk.num_tokens * context_.token_bytes();
  const std::int64_t padding = std::int64_t{chunk.num_units} * options_.unit_bytes - stored;
  std::memset(context_.pool + begin + stored, 0, static_cast<std::size_t>(padding));
}

}  // namespace radixkv
