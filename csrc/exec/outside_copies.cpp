// Executor's part in copies that no thread of its own carries out, but a GPU or the caller: whose
// bytes are where, and who hears of the end.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

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

void Executor::submit_stored(std::int64_t command_id, std::span<const ChunkRef> chunks,
                             std::span<const std::span<const std::byte>> payloads) {
  check_open();
  check_chunks(chunks, true, false);
  const std::size_t num_payloads = std::min(chunks.size(), payloads.size());
  for (std::size_t i = 0; i < num_payloads; ++i) {
    const std::int64_t wanted = chunks[i].num_tokens * context_.token_bytes();
    const auto got = static_cast<std::int64_t>(payloads[i].size());
    if (got == wanted) continue;
    throw std::invalid_argument("payloads: expected " + std::to_string(wanted) +
                                " bytes of chunk " + std::to_string(i) + ", got " +
                                std::to_string(got));
  }
  const InjectedFault fault = take_fault(CommandKind::kStore);
  const std::chrono::duration<double> delay(fault.delay_s);
  completions_.submitted(CommandKind::kStore, command_id,
                         std::chrono::duration_cast<CompletionQueue::Clock::duration>(delay));
  Completion completion{command_id, 0, CompletionStatus::kFailed};
  std::int64_t num_bytes = 0;
  if (!fault.fail) {
    for (std::size_t i = 0; i < num_payloads; ++i) {
      tags_.wipe(chunks[i]);
      const std::int64_t begin = std::int64_t{chunks[i].memory_offset} * options_.unit_bytes;
      std::memcpy(context_.pool + begin, payloads[i].data(), payloads[i].size());
      clear_padding(chunks[i]);
      tags_.set(chunks[i]);
      num_bytes += static_cast<std::int64_t>(payloads[i].size());
    }
    const bool is_all = num_payloads == chunks.size();
    completion.num_ok = static_cast<std::int32_t>(num_payloads);
    completion.status = is_all ? CompletionStatus::kOk : CompletionStatus::kCorrupt;
  }
  completions_.ended(CommandKind::kStore, completion, num_bytes);
}

// What lies behind a chunk's bytes in its extent goes to disk with it: it must not be another's.
void Executor::clear_padding(const ChunkRef& chunk) {
  const std::int64_t begin = std::int64_t{chunk.memory_offset} * options_.unit_bytes;
  const std::int64_t stored = chunk.num_tokens * context_.token_bytes();
  const std::int64_t padding = std::int64_t{chunk.num_units} * options_.unit_bytes - stored;
  std::memset(context_.pool + begin + stored, 0, static_cast<std::size_t>(padding));
}

}  // namespace radixkv
