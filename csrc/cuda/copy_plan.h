// From a CopyParams to what the device is told: tables of tokens for the kernel, and for the copy
// engine lists of runs.
//
//   direct   the kernel reads and writes the chunks where they lie
//   staged   the copy engine moves stored runs between the chunks and a slab on the device, and the
//            kernel moves rows between slab and engine. What does not fit into one slab goes in
//            parts:
//
//            slices   [ 64 tokens ][ 64 ][ 30 ] | [ 64 ][ 64 ]       part 0 | part 1
//            slab     [row][64 tokens] … [row][64] … [row][30] …     as in chunks,
//                                                                    for one group's rows
//
// Thread safety: free functions over the caller's memory. Nothing here calls CUDA.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/copy_batch.h"
#include "cuda/copy_kernel.h"
#include "transfer/params.h"

namespace radixkv::cuda {

// Consecutive slices that go through one slab together.
struct Part {
  std::int32_t slice_begin, slice_end;
  std::int32_t token_begin, num_tokens;
};

// The rows of a launch: at most `group_rows` of them, with the slab laid out for that many.
struct RowGroup {
  std::int32_t begin, end;
  std::int32_t group_rows;
};

// One entry a token. `stored` is an address.
void write_direct_tokens(const CopyParams& params, std::span<TokenCopy> tokens);

// One entry a token. `stored` is an offset into the slab of the token's part.
void write_staged_tokens(const CopyParams& params, std::span<const Part> parts,
                         std::int32_t group_rows, std::span<TokenCopy> tokens);

// REQUIRES: each slice alone fits: count * group_rows * row_bytes <= slab_bytes.
void plan_parts(const CopyParams& params, std::int32_t group_rows, std::int64_t slab_bytes,
                std::vector<Part>* parts);

// Adds the copies between a part's chunks and its slab: one run for a whole chunk, else one a row.
void add_slab_runs(const CopyParams& params, const Part& part, const RowGroup& rows,
                   std::byte* slab, Direction direction, CopyBatch* batch);

// The widest vector that divides every address, stride, row and piece of the engine's side.
int engine_vector_bytes(const CopyParams& params);

// The same with the chunks of this transfer.
int vector_bytes(const CopyParams& params, int engine_vector_bytes);

}  // namespace radixkv::cuda
