#include "cuda/engine_layout.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace radixkv::cuda {
namespace {

constexpr std::int64_t kMaxStep = std::numeric_limits<std::int32_t>::max();

void expect(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

void expect_length(const char* name, std::size_t length, std::size_t wanted) {
  expect(length == wanted, std::string(name) + ": expected " + std::to_string(wanted) +
                               " entries, got " + std::to_string(length));
}

void check_slice(const Slices& slices, std::size_t i) {
  const std::int64_t end = std::int64_t{slices.first[i]} + slices.count[i];
  expect(slices.first[i] >= 0 && slices.count[i] >= 1 && end <= slices.chunk_num_tokens[i],
         "slice " + std::to_string(i) + ": " + std::to_string(slices.count[i]) + " tokens from " +
             std::to_string(slices.first[i]) + " of a chunk of " +
             std::to_string(slices.chunk_num_tokens[i]));
}

}  // namespace

void EngineLayout::check() const {
  const std::size_t num_rows = addresses.size();
  expect(num_kv == 1 || num_kv == 2, "num_kv: expected 1 or 2, got " + std::to_string(num_kv));
  expect(num_rows > 0 && num_rows % static_cast<std::size_t>(num_kv) == 0,
         "addresses: expected num_kv entries a layer, got " + std::to_string(num_rows));
  expect(block_slots >= 1, "block_slots: expected at least 1");
  expect(num_slots >= 1, "num_slots: expected at least 1");
  expect(row_bytes >= 1 && row_bytes <= kMaxStep, "row_bytes: expected 1 to 2^31 - 1");
  expect(num_pieces >= 1 && row_bytes % num_pieces == 0, "num_pieces: must divide row_bytes");
  expect_length("block_strides", block_strides.size(), num_rows);
  expect_length("slot_strides", slot_strides.size(), block_slots > 1 ? num_rows : 0);
  expect_length("piece_strides", piece_strides.size(), num_pieces > 1 ? num_rows : 0);
}

CopyParams EngineLayout::params() const {
  CopyParams params;
  params.engine = addresses.data();
  params.engine_strides = block_strides.data();
  params.num_rows = static_cast<std::int64_t>(addresses.size());
  params.row_bytes = row_bytes;
  params.block_slots = block_slots;
  params.slot_strides = slot_strides.data();
  params.num_pieces = num_pieces;
  params.piece_strides = piece_strides.data();
  return params;
}

void check_slots(std::span<const std::int64_t> slots, std::int64_t num_slots) {
  const auto [least, greatest] = std::minmax_element(slots.begin(), slots.end());
  const std::int64_t worst = *least < 0 ? *least : *greatest;
  expect(worst >= 0 && worst < num_slots, "slots: expected 0 to " + std::to_string(num_slots - 1) +
                                              ", got " + std::to_string(worst));
}

SliceArrays& SliceArrays::operator=(const Slices& slices) {
  chunks_.assign(slices.chunks.begin(), slices.chunks.end());
  chunk_num_tokens_.assign(slices.chunk_num_tokens.begin(), slices.chunk_num_tokens.end());
  first_.assign(slices.first.begin(), slices.first.end());
  count_.assign(slices.count.begin(), slices.count.end());
  slots_.assign(slices.slots.begin(), slices.slots.end());
  num_tokens_ = slices.num_tokens();
  return *this;
}

void SliceArrays::fill(CopyParams* params) const {
  params->slots = slots_.data();
  params->chunks = chunks_.data();
  params->chunk_num_tokens = chunk_num_tokens_.data();
  params->first = first_.data();
  params->count = count_.data();
  params->num_slices = static_cast<std::int64_t>(chunks_.size());
}

CopyParams checked_params(const EngineLayout& layout, const Slices& slices) {
  const std::size_t num_slices = slices.chunks.size();
  expect(num_slices > 0, "chunks: expected at least 1");
  expect_length("chunk_num_tokens", slices.chunk_num_tokens.size(), num_slices);
  expect_length("first", slices.first.size(), num_slices);
  expect_length("count", slices.count.size(), num_slices);
  std::int64_t num_tokens = 0;
  for (std::size_t i = 0; i < num_slices; ++i) {
    check_slice(slices, i);
    expect(slices.chunk_num_tokens[i] * layout.row_bytes <= kMaxStep,
           "chunk_num_tokens: expected less than 2 GiB a row of a chunk");
    num_tokens += slices.count[i];
  }
  expect_length("slots", static_cast<std::size_t>(slices.num_tokens()),
                static_cast<std::size_t>(num_tokens));
  if (!slices.device_slots) check_slots(slices.slots, layout.num_slots);

  CopyParams params = layout.params();
  params.slots = slices.slots.data();
  params.chunks = slices.chunks.data();
  params.chunk_num_tokens = slices.chunk_num_tokens.data();
  params.first = slices.first.data();
  params.count = slices.count.data();
  params.num_slices = static_cast<std::int64_t>(num_slices);
  return params;
}

}  // namespace radixkv::cuda
