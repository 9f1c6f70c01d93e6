#include "cuda/copy_plan.h"

#include <algorithm>
#include <bit>

namespace radixkv::cuda {
namespace {

constexpr std::uint64_t kWidestVector = 16;

// The engine's half of a token.
TokenCopy engine_side(const CopyParams& params, std::int64_t slot) {
  TokenCopy token{};
  token.block = slot;
  if (params.block_slots == 1) return token;  // a division costs more than all the rest
  token.block = slot / params.block_slots;
  token.within = static_cast<std::int32_t>(slot % params.block_slots);
  return token;
}

void add(std::byte* stored, std::byte* device, std::int64_t num_bytes, Direction direction,
         CopyBatch* batch) {
  const bool to_device = direction == Direction::kLoad;
  batch->add(to_device ? device : stored, to_device ? stored : device, num_bytes);
}

int widest(std::uint64_t all_bits) {
  return static_cast<int>(std::uint64_t{1} << std::countr_zero(all_bits | kWidestVector));
}

}  // namespace

void write_direct_tokens(const CopyParams& params, std::span<TokenCopy> tokens) {
  std::size_t next = 0;
  for (std::int64_t slice = 0; slice < params.num_slices; ++slice) {
    const auto chunk = reinterpret_cast<std::intptr_t>(params.chunks[slice]);
    const std::int64_t step = params.chunk_num_tokens[slice] * params.row_bytes;
    for (std::int32_t i = 0; i < params.count[slice]; ++i, ++next) {
      TokenCopy token = engine_side(params, params.slots[next]);
      token.stored = chunk + (params.first[slice] + i) * params.row_bytes;
      token.stored_step = static_cast<std::int32_t>(step);
      tokens[next] = token;
    }
  }
}

void write_staged_tokens(const CopyParams& params, std::span<const Part> parts,
                         std::int32_t group_rows, std::span<TokenCopy> tokens) {
  std::size_t next = 0;
  for (const Part& part : parts) {
    std::int64_t slab_offset = 0;
    for (std::int32_t slice = part.slice_begin; slice < part.slice_end; ++slice) {
      const std::int64_t step = params.count[slice] * params.row_bytes;
      for (std::int32_t i = 0; i < params.count[slice]; ++i, ++next) {
        TokenCopy token = engine_side(params, params.slots[next]);
        token.stored = slab_offset + i * params.row_bytes;
        token.stored_step = static_cast<std::int32_t>(step);
        tokens[next] = token;
      }
      slab_offset += step * group_rows;
    }
  }
}

void plan_parts(const CopyParams& params, std::int32_t group_rows, std::int64_t slab_bytes,
                std::vector<Part>* parts) {
  const std::int64_t slab_tokens = slab_bytes / (group_rows * params.row_bytes);
  parts->clear();
  for (std::int32_t slice = 0; slice < params.num_slices; ++slice) {
    const std::int32_t count = params.count[slice];
    if (parts->empty() || parts->back().num_tokens + count > slab_tokens) {
      const std::int32_t begin =
          parts->empty() ? 0 : parts->back().token_begin + parts->back().num_tokens;
      parts->push_back({slice, slice, begin, 0});
    }
    parts->back().slice_end = slice + 1;
    parts->back().num_tokens += count;
  }
}

void add_slab_runs(const CopyParams& params, const Part& part, const RowGroup& rows,
                   std::byte* slab, Direction direction, CopyBatch* batch) {
  for (std::int32_t slice = part.slice_begin; slice < part.slice_end; ++slice) {
    const std::int64_t chunk_step = params.chunk_num_tokens[slice] * params.row_bytes;
    const std::int64_t slab_step = params.count[slice] * params.row_bytes;
    std::byte* stored =
        params.chunks[slice] + rows.begin * chunk_step + params.first[slice] * params.row_bytes;
    if (chunk_step == slab_step) {
      add(stored, slab, (rows.end - rows.begin) * slab_step, direction, batch);
    } else {
      for (std::int32_t row = 0; row < rows.end - rows.begin; ++row) {
        add(stored + row * chunk_step, slab + row * slab_step, slab_step, direction, batch);
      }
    }
    slab += rows.group_rows * slab_step;
  }
}

int engine_vector_bytes(const CopyParams& params) {
  auto bits = static_cast<std::uint64_t>(params.row_bytes / params.num_pieces);
  for (std::int64_t row = 0; row < params.num_rows; ++row) {
    bits |= reinterpret_cast<std::uintptr_t>(params.engine[row]);
    bits |= static_cast<std::uint64_t>(params.engine_strides[row]);
    if (params.block_slots > 1) bits |= static_cast<std::uint64_t>(params.slot_strides[row]);
    if (params.num_pieces > 1) bits |= static_cast<std::uint64_t>(params.piece_strides[row]);
  }
  return widest(bits);
}

int vector_bytes(const CopyParams& params, int engine_vector_bytes) {
  auto bits = static_cast<std::uint64_t>(engine_vector_bytes);
  for (std::int64_t slice = 0; slice < params.num_slices; ++slice) {
    bits |= reinterpret_cast<std::uintptr_t>(params.chunks[slice]);
  }
  return widest(bits);
}

}  // namespace radixkv::cuda
