// Commands to remote servers whose client lives outside the executor.
#include <algorithm>
#include <string>

#include "exec/executor.h"

namespace radixkv {

bool Executor::begin_elsewhere(CommandKind kind, std::int64_t command_id) {
  check_open();
  const InjectedFault fault = take_fault(kind);
  completions_.submitted(kind, command_id,
                         std::chrono::duration_cast<CompletionQueue::Clock::duration>(
                             std::chrono::duration<double>(fault.delay_s)));
  if (fault.fail) end_elsewhere(kind, {command_id, 0, CompletionStatus::kFailed}, 0);
  return !fault.fail;
}

std::unique_ptr<OutsideObjects> Executor::outside_objects(RemoteCommand command,
                                                          std::byte* heads) const {
  check_chunks(command.chunks, true, false);
  check_tokens(command.chunks, command.tokens);
  return std::make_unique<OutsideObjects>(remote_context_, std::move(command), heads);
}

std::vector<std::string> Executor::chunk_names(const Digest& parent,
                                               std::span<const Token> tokens) const {
  std::vector<std::string> names;
  Digest key = parent;
  const std::size_t step = remote_context_.shape.chunk_tokens;
  for (std::size_t first = 0; first + step <= tokens.size(); first += step) {
    key = chunk_key(key, tokens.subspan(first, step));
    names.push_back(object_name(remote_context_.shape, key));
  }
  return names;
}

}  // namespace radixkv
