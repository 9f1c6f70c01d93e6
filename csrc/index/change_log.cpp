#include "index/change_log.h"

namespace radixkv {

void ChangeLog::put_bytes(const void* data, std::size_t num_bytes) {
  const auto* first = static_cast<const std::byte*>(data);
  bytes_.insert(bytes_.end(), first, first + num_bytes);
}

void ChangeLog::add_space(NamespaceId space, const NamespaceDigest& digest) {
  put(ChangeHead{ChangeKind::kSpace, 0, 0, space});
  put(digest);
}

void ChangeLog::add_chunk(ChunkId id, ChunkId parent, NamespaceId space,
                          std::span<const Token> tokens) {
  put(ChangeHead{ChangeKind::kChunk, 0, static_cast<std::uint16_t>(tokens.size()), id});
  put(parent);
  put(space);
  put_bytes(tokens.data(), tokens.size_bytes());
}

void ChangeLog::add_kept(ChunkId id, Tier tier, std::uint32_t offset, std::uint16_t num_units) {
  put(ChangeHead{ChangeKind::kKept, static_cast<std::uint8_t>(tier), num_units, id});
  put(offset);
}

void ChangeLog::add_left(ChunkId id, Tier tier) {
  put(ChangeHead{ChangeKind::kLeft, static_cast<std::uint8_t>(tier), 0, id});
}

void ChangeLog::add_use(ChunkId id, std::uint16_t num_uses, std::uint64_t time) {
  put(ChangeHead{ChangeKind::kUse, 0, num_uses, id});
  put(time);
}

void ChangeLog::add_mark(NamespaceId space, const MarkValues& mark) {
  put(ChangeHead{ChangeKind::kMark, 0, 0, space});
  MarkHead head{};
  head.num_tokens = static_cast<std::uint32_t>(mark.prefix.size());
  head.priority = mark.priority.value_or(0);
  head.time_to_live = mark.time_to_live.value_or(0);
  head.num_pins = static_cast<std::uint32_t>(mark.pins.size());
  head.said = (mark.priority ? 1u : 0u) | (mark.time_to_live ? 2u : 0u);
  for (std::size_t tier = 0; tier < kNumTiers; ++tier) {
    head.quota_units[tier] = mark.quota_units[tier].value_or(0);
    if (mark.quota_units[tier]) head.said |= 4u << tier;
  }
  put(head);
  put_bytes(mark.prefix.data(), mark.prefix.size() * sizeof(Token));
  for (const auto& [owner, until] : mark.pins) {
    put(until);
    put(static_cast<std::uint32_t>(owner.size()));
    put_bytes(owner.data(), owner.size());
    bytes_.resize((bytes_.size() + 3) / 4 * 4);
  }
}

void ChangeLog::add_totals(const IndexTotals& totals) {
  put(ChangeHead{ChangeKind::kTotals, 0, 0, 0});
  put(totals);
}

}  // namespace radixkv
