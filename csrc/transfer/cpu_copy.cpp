#include "transfer/cpu_copy.h"

#include "transfer/stream_copy.h"

namespace radixkv {
namespace {

// One row of a run: where it begins on both sides, and how far its tokens lie apart in the engine.
struct Row {
  std::byte* stored;
  std::byte* engine;
  std::int64_t engine_step;
};

Row locate(const CopyParams& params, const CopyRun& run, std::int64_t row) {
  const std::int64_t stored_token = row * params.chunk_num_tokens[run.slice] + run.token;
  std::byte* stored = params.chunks[run.slice] + stored_token * params.row_bytes;
  std::byte* block =
      params.engine[row] + run.slot / params.block_slots * params.engine_strides[row];
  if (params.block_slots == 1) return {stored, block, params.engine_strides[row]};
  const std::int64_t step = params.slot_strides[row];
  return {stored, block + run.slot % params.block_slots * step, step};
}

template <bool kToEngine>
void copy(std::byte* stored, std::byte* engine, std::int64_t num_bytes) {
  stream_copy(kToEngine ? engine : stored, kToEngine ? stored : engine,
              static_cast<std::size_t>(num_bytes));
}

template <bool kToEngine>
void copy_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
               std::int64_t row_end) {
  const std::int64_t piece_bytes = params.row_bytes / params.num_pieces;
  for (std::int64_t row_index = row_begin; row_index < row_end; ++row_index) {
    const std::int64_t piece_step = params.num_pieces > 1 ? params.piece_strides[row_index] : 0;
    for (const CopyRun& run : runs) {
      const Row row = locate(params, run, row_index);
      if (row.engine_step == params.row_bytes && params.num_pieces == 1) {
        copy<kToEngine>(row.stored, row.engine, run.count * params.row_bytes);
        continue;
      }
      for (std::int64_t i = 0; i < run.count * params.num_pieces; ++i) {
        const std::int64_t token = i / params.num_pieces;
        const std::int64_t piece = i % params.num_pieces;
        copy<kToEngine>(row.stored + i * piece_bytes,
                        row.engine + token * row.engine_step + piece * piece_step, piece_bytes);
      }
    }
  }
  stream_fence();
}

}  // namespace

std::vector<CopyRun> plan_runs(const CopyParams& params) {
  std::vector<CopyRun> runs;
  const std::int64_t* slot = params.slots;
  for (std::int64_t slice = 0; slice < params.num_slices; ++slice) {
    const std::int32_t end = params.first[slice] + params.count[slice];
    for (std::int32_t token = params.first[slice]; token < end; ++token, ++slot) {
      CopyRun* last = token > params.first[slice] ? &runs.back() : nullptr;
      const bool follows = last != nullptr && *slot == last->slot + last->count;
      if (follows && (params.block_slots == 1 || *slot % params.block_slots != 0)) {
        ++last->count;
      } else {
        runs.push_back({*slot, static_cast<std::int32_t>(slice), token, 1});
      }
    }
  }
  return runs;
}

void gather_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
                 std::int64_t row_end) {
  copy_rows<false>(params, runs, row_begin, row_end);
}

void scatter_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
                  std::int64_t row_end) {
  copy_rows<true>(params, runs, row_begin, row_end);
}

}  // namespace radixkv
