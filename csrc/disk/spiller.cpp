#include "disk/spiller.h"

#include <algorithm>
#include <span>
#include <utility>

namespace radixkv {
namespace {

using State = DiskEntry::State;

// What a free header looks like.
alignas(kBlockBytes) std::byte zero_block[kBlockBytes];

}  // namespace

void Spiller::add(DiskCommand command) {
  running_.push_back(std::make_unique<Spill>(std::move(command)));
}

void Spiller::pump() {
  do {
    begin_what_may();
  } while (complete_ended());  // what ended may be what a clear waits for
}

void Spiller::begin_what_may() {
  for (const auto& spill : running_) {
    if (must_wait(spill.get())) break;
    while (!spill->all_begun() && num_clearing_ == 0 && writes_.wants_more()) {
      if (spill->command.kind == CommandKind::kClear) {
        begin_clear(spill.get());
      } else {
        begin_next(spill.get());
      }
    }
    if (!spill->all_begun()) break;
  }
}

// What is still being written counts only once it is acknowledged, and would count after its clear.
bool Spiller::must_wait(Spill* spill) const {
  if (spill->command.kind != CommandKind::kClear || spill->next > 0) return false;
  if (spill == running_.front().get()) return false;
  if (!spill->waits.has_value()) {
    const auto& chunks = spill->command.chunks;
    spill->waits = std::any_of(chunks.begin(), chunks.end(), [this](const ChunkRef& chunk) {
      const std::uint32_t slot = context_.table->find_chunk(chunk);
      return slot != DiskTable::kNoSlot && (*context_.table)[slot].state == State::kWriting;
    });
  }
  return *spill->waits;
}

void Spiller::abandon() {
  for (const auto& spill : running_) {
    if (spill->command.kind == CommandKind::kSpill) {
      spill->fail(spill->next, CompletionStatus::kFailed);
    }
  }
}

void Spiller::begin_clear(Spill* spill) {
  for (; !spill->all_begun(); ++spill->next) {
    const std::size_t index = spill->next;
    const std::uint32_t slot = context_.table->find_chunk(spill->command.chunks[index]);
    // Not there (any more) is what was asked for.
    if (slot == DiskTable::kNoSlot || (*context_.table)[slot].state != State::kReady) continue;
    ++spill->num_in_flight;
    discard(slot, [this, spill, index](int error) {
      --spill->num_in_flight;
      if (error != 0) return spill->fail(index, status_of_errno(error));
      sync_.written(kBlockBytes);  // nobody waits for it, but a power cut would bring it back
    });
  }
}

void Spiller::begin_next(Spill* spill) {
  const std::size_t index = spill->next;
  const ChunkRef& chunk = spill->command.chunks[index];
  if (!context_.tags->holds(chunk)) return spill->fail(index, CompletionStatus::kCorrupt);
  if (!make_way(spill, chunk)) return;

  const std::span<const Token> tokens(spill->command.tokens.data() + spill->next_token,
                                      chunk.num_tokens);
  DiskEntry entry;
  entry.state = State::kWriting;
  entry.bound = true;
  entry.num_units = chunk.num_units;
  entry.num_tokens = chunk.num_tokens;
  entry.id = chunk.id;
  entry.generation = chunk.generation;
  entry.disk_offset = chunk.disk_offset;
  entry.span = chunk.span;
  entry.namespace_digest = spill->command.namespace_digest;
  Digest parent_key;
  if (!find_parent_key(*spill, chunk, &parent_key)) {
    return spill->fail(index, CompletionStatus::kFailed);
  }
  entry.key = chunk_key(parent_key, tokens);
  const std::uint32_t slot = context_.table->take(entry);
  if (slot == DiskTable::kNoSlot) return spill->fail(index, CompletionStatus::kFull);

  spill->slots.push_back(slot);
  spill->parent_keys.push_back(parent_key);
  spill->cleared_for_next = false;
  ++spill->next;
  write_payload(spill, index);
  spill->next_token += chunk.num_tokens;
}

// True if no header claims the chunk's extent. Otherwise those that do are being cleared, and the
// chunk has its turn again afterwards; or, if that was in vain, it failed.
bool Spiller::make_way(Spill* spill, const ChunkRef& chunk) {
  const std::vector<std::uint32_t> slots = context_.table->overlapping(chunk);
  if (slots.empty()) return true;
  const bool busy = std::any_of(slots.begin(), slots.end(), [this](std::uint32_t slot) {
    return (*context_.table)[slot].state == State::kWriting;
  });
  if (busy || spill->cleared_for_next) {
    spill->fail(spill->next, CompletionStatus::kFailed);
    return false;
  }
  spill->cleared_for_next = true;
  for (const std::uint32_t slot : slots) discard(slot, [](int) {});
  return false;
}

bool Spiller::find_parent_key(const Spill& spill, const ChunkRef& chunk, Digest* key) const {
  if (chunk.parent_disk_offset == kNoExtent) {
    *key = root_key(spill.command.namespace_digest);
    return chunk.span == 0;
  }
  const std::uint32_t slot = context_.table->find(chunk.parent_disk_offset);
  if (slot == DiskTable::kNoSlot) return false;
  const DiskEntry& parent = (*context_.table)[slot];
  *key = parent.key;
  return (parent.state == State::kWriting || parent.state == State::kReady) &&
         parent.span + 1 == chunk.span && parent.num_tokens == context_.shape.chunk_tokens &&
         parent.namespace_digest == spill.command.namespace_digest;
}

void Spiller::write_payload(Spill* spill, std::size_t index) {
  const ChunkRef& chunk = spill->command.chunks[index];
  const std::uint32_t slot = spill->slots[index];
  const std::shared_ptr<ChunkHeader> header = make_header(*spill, index);
  ++spill->num_in_flight;
  writes_.transfer(context_.memory_extent(chunk).data(), context_.extent_bytes(chunk),
                   context_.shape.unit_offset(chunk.disk_offset),
                   [this, spill, index, header](int error) {
                     if (error == 0) return write_header(spill, index, header);
                     --spill->num_in_flight;
                     spill->fail(index, status_of_errno(error));
                   });
  // The pieces are on their way; the checksum is computed beside them.
  header->payload_checksum = payload_checksum(context_.memory_extent(chunk));
  (*context_.table)[slot].checksum = header->payload_checksum;
  seal(header.get());
}

void Spiller::write_header(Spill* spill, std::size_t index, std::shared_ptr<ChunkHeader> header) {
  auto* block = reinterpret_cast<std::byte*>(header.get());
  writes_.transfer(block, kBlockBytes, context_.shape.header_offset(spill->slots[index]),
                   [this, spill, index, header](int error) {
                     --spill->num_in_flight;
                     if (error != 0) return spill->fail(index, status_of_errno(error));
                     spill->epoch =
                         sync_.written(context_.extent_bytes(spill->command.chunks[index]));
                     if (spill->first_epoch == 0) spill->first_epoch = spill->epoch;
                   });
}

std::shared_ptr<ChunkHeader> Spiller::make_header(const Spill& spill, std::size_t index) const {
  const ChunkRef& chunk = spill.command.chunks[index];
  auto header = std::make_shared<ChunkHeader>();
  header->layout_digest = context_.shape.layout_digest;
  header->namespace_digest = spill.command.namespace_digest;
  header->group_id = context_.file->group_id();
  header->key = (*context_.table)[spill.slots[index]].key;
  header->parent_key = spill.parent_keys[index];
  header->sequence = spill.command.sequence + index;
  header->stored_bytes = static_cast<std::uint64_t>(chunk.num_tokens * context_.token_bytes);
  header->span = chunk.span;
  header->disk_offset = chunk.disk_offset;
  header->num_units = chunk.num_units;
  header->num_tokens = chunk.num_tokens;
  std::copy_n(spill.command.tokens.begin() + static_cast<std::ptrdiff_t>(spill.next_token),
              chunk.num_tokens, header->tokens.begin());
  return header;
}

// Makes an entry unfindable, in memory at once and in the file when the write is done.
void Spiller::discard(std::uint32_t slot, IoWindow::Done then) {
  (*context_.table)[slot].state = State::kDead;
  ++num_clearing_;
  writes_.transfer(zero_block, kBlockBytes, context_.shape.header_offset(slot),
                   [this, slot, then = std::move(then)](int error) {
                     --num_clearing_;
                     if (error == 0) context_.table->release(slot);
                     then(error);
                   });
}

void Spiller::on_synced(std::uint64_t epoch, int error) {
  if (error == 0) return;
  // What the device lost is not known: nothing of these epochs is acknowledged.
  for (const auto& spill : running_) {
    if (spill->first_epoch != 0 && spill->first_epoch <= epoch)
      spill->fail(0, status_of_errno(error));
  }
}

bool Spiller::complete_ended() {
  const std::size_t num_before = running_.size();
  bool spills_wait = false;
  for (auto at = running_.begin(); at != running_.end();) {
    Spill& spill = **at;
    const bool is_spill = spill.command.kind == CommandKind::kSpill;
    if (!spill.ended()) break;
    if (is_spill && (spills_wait || !sync_.is_durable(spill.epoch))) {
      spills_wait = true;  // later ones wait behind it, clears pass
      ++at;
      continue;
    }
    if (is_spill) acknowledge(&spill);
    std::int64_t num_bytes = 0;
    for (std::size_t i = 0; is_spill && i < spill.num_good; ++i) {
      num_bytes += context_.extent_bytes(spill.command.chunks[i]);
    }
    context_.sink(spill.command.kind, spill.completion(), num_bytes);
    at = running_.erase(at);
  }
  return running_.size() < num_before;
}

// Decides how many chunks count. The file may have vanished, and a parent in an earlier command may
// have failed after this one took its key.
void Spiller::acknowledge(Spill* spill) {
  DiskTable& table = *context_.table;
  if (!context_.file->is_whole()) spill->fail(0, CompletionStatus::kFailed);
  for (std::size_t i = 0; i < spill->num_good; ++i) {
    const ChunkRef& chunk = spill->command.chunks[i];
    if (chunk.parent_disk_offset != kNoExtent) {
      const std::uint32_t parent = table.find(chunk.parent_disk_offset);
      if (parent == DiskTable::kNoSlot || table[parent].state != State::kReady ||
          table[parent].key != spill->parent_keys[i]) {
        spill->fail(i, CompletionStatus::kFailed);
        break;
      }
    }
    table[spill->slots[i]].state = State::kReady;
  }
  for (std::size_t i = spill->num_good; i < spill->slots.size(); ++i) {
    discard(spill->slots[i], [](int) {});
  }
}

}  // namespace radixkv
