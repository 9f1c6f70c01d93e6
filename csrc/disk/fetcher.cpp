#include "disk/fetcher.h"

#include <utility>

namespace radixkv {

void Fetcher::add(DiskCommand command) {
  running_.push_back(std::make_unique<RunningCommand>(std::move(command)));
}

void Fetcher::pump() {
  for (const auto& running : running_) {
    while (!running->all_begun() && reads_.wants_more()) begin_next(running.get());
    if (!reads_.wants_more()) break;
  }
  complete_ended();
}

void Fetcher::abandon() {
  for (const auto& running : running_) running->fail(running->next, CompletionStatus::kFailed);
}

void Fetcher::begin_next(RunningCommand* running) {
  const std::size_t index = running->next++;
  const ChunkRef& chunk = running->command.chunks[index];
  DiskTable& table = *context_.table;
  const std::uint32_t slot = table.find_chunk(chunk);
  if (slot == DiskTable::kNoSlot || table[slot].state != DiskEntry::State::kReady) {
    return running->fail(index, CompletionStatus::kCorrupt);
  }
  DiskEntry& entry = table[slot];
  entry.bound = true;
  entry.id = chunk.id;
  entry.generation = chunk.generation;

  context_.tags->wipe(chunk);
  ++running->num_in_flight;
  const std::uint64_t checksum = entry.checksum;
  reads_.transfer(context_.memory_extent(chunk).data(), context_.extent_bytes(chunk),
                  context_.shape.unit_offset(chunk.disk_offset),
                  [this, running, index, checksum](int error) {
                    --running->num_in_flight;
                    if (error != 0) return running->fail(index, CompletionStatus::kFailed);
                    verify(running, index, checksum);
                  });
}

void Fetcher::verify(RunningCommand* running, std::size_t index, std::uint64_t checksum) {
  const ChunkRef& chunk = running->command.chunks[index];
  if (payload_checksum(context_.memory_extent(chunk)) != checksum) {
    return running->fail(index, CompletionStatus::kCorrupt);
  }
  context_.tags->set(chunk);
}

void Fetcher::complete_ended() {
  while (!running_.empty() && running_.front()->ended()) {
    const RunningCommand& running = *running_.front();
    const auto& chunks = running.command.chunks;
    std::int64_t num_bytes = 0;
    for (std::size_t i = 0; i < running.num_good; ++i)
      num_bytes += context_.extent_bytes(chunks[i]);
    // A chunk below one that failed may have landed; the completion says that it did not.
    for (std::size_t i = running.num_good; i < running.next; ++i) context_.tags->wipe(chunks[i]);
    context_.sink(CommandKind::kFetch, running.completion(), num_bytes);
    running_.pop_front();
  }
}

}  // namespace radixkv
