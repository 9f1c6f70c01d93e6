// Copies rows between stored chunks and engine memory on the CPU; the twin of a GPU's kernel.
//
// Tokens whose slots follow each other are one run, planned once for all rows of a command:
//
//   slots  7 8 9 3 4 5  of one chunk     runs  (slot 7, 3 tokens) (slot 3, 3 tokens)
//
// A run is one memcpy a row where the engine's slots lie row_bytes apart, else one a token (or a
// piece of it). A run ends with the engine's block.
//
// Thread safety: free functions over the caller's memory; any threads on disjoint runs or rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "transfer/params.h"

namespace radixkv {

// `count` tokens that follow each other in one chunk and in one block of the engine.
struct CopyRun {
  std::int64_t slot;   // the first token's
  std::int32_t slice;  // index into CopyParams::chunks
  std::int32_t token;  // the first token, counted from the chunk's beginning
  std::int32_t count;
};

// Runs in the order of the slots; together they cover every token once.
std::vector<CopyRun> plan_runs(const CopyParams& params);

// Engine → chunks, for rows row_begin ... row_end - 1.
void gather_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
                 std::int64_t row_end);

// Chunks → engine, for rows row_begin ... row_end - 1.
void scatter_rows(const CopyParams& params, std::span<const CopyRun> runs, std::int64_t row_begin,
                  std::int64_t row_end);

}  // namespace radixkv
