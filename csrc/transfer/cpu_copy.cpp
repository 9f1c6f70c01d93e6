#include "transfer/cpu_copy.h"

#include "transfer/stream_copy.h"

namespace radixkv {
namespace {

struct Row {
  std::byte* stored;
  std::byte* engine;
  std::int64_t engine_stride;
};

Row locate(const CopyParams& params, const CopyRun& run, std::int64_t row) {
  const std::int64_t stored_token = row * params.chunk_num_tokens[run.slice] + run.token;
  return {params.chunks[run.slice] + stored_token * params.row_bytes,
          params.engine[row] + run.slot * params.engine_strides[row], params.engine_strides[row]};
}

template <bool kToEngine>
void copy_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
               std::int64_t row_end) {
  const auto row_bytes = static_cast<std::size_t>(params.row_bytes);
  for (std::int64_t row_index = row_begin; row_index < row_end; ++row_index) {
    for (const CopyRun& run : runs) {
      const Row row = locate(params, run, row_index);
      std::byte* target = kToEngine ? row.engine : row.stored;
      const std::byte* source = kToEngine ? row.stored : row.engine;
      if (row.engine_stride == params.row_bytes) {
        stream_copy(target, source, row_bytes * static_cast<std::size_t>(run.count));
        continue;
      }
      const std::int64_t target_step = kToEngine ? row.engine_stride : params.row_bytes;
      const std::int64_t source_step = kToEngine ? params.row_bytes : row.engine_stride;
      for (std::int32_t i = 0; i < run.count; ++i) {
        stream_copy(target + i * target_step, source + i * source_step, row_bytes);
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
      if (last != nullptr && *slot == last->slot + last->count) {
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
