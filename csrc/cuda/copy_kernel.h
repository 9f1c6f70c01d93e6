// The one kernel of the CUDA room: moves rows between stored chunks and engine memory, both ways.
//
//   stored   [row][token][row_bytes]                          pinned host memory, or a slab
//                                                             on the device
//   engine   [row] -> [block][slot in block][piece], strided  device memory
//
// Every address is worked out from two small tables on the device: where an engine row lies
// (EngineRow, made once) and where a token lies (TokenCopy, made for each transfer). Layout is
// data: only the vector width is a template.
//
// Its twin on the CPU is transfer/cpu_copy.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace radixkv::cuda {

enum class Direction { kLoad, kStore };  // stored → engine, engine → stored

// Slot (block, within) of this row begins at base + block * block_stride + within * slot_stride.
struct EngineRow {
  std::byte* base;
  std::int64_t block_stride;
  std::int64_t slot_stride;
  std::int64_t piece_stride;
};

// Row r of this token is stored at KernelParams::stored + stored + (r - row_origin) * stored_step.
struct TokenCopy {
  std::int64_t stored;
  std::int64_t block;
  std::int32_t within;
  std::int32_t stored_step;
};

struct KernelParams {
  const EngineRow* rows;    // [row_end] on the device
  const TokenCopy* tokens;  // [num_tokens] on the device
  std::uintptr_t stored;    // address of a slab; 0 where TokenCopy::stored is an address itself
  std::int32_t num_tokens;
  std::int32_t row_origin;  // the row that the stored form begins with
  std::int32_t row_begin, row_end;
  std::int32_t row_bytes;
  std::int32_t piece_bytes;  // divides row_bytes
};

// Queues the copy on `stream` with at most `max_blocks` blocks: each holds one multiprocessor while
// it runs. Allocates nothing and waits for nothing. REQUIRES: vector_bytes is 1, 2, 4, 8 or 16 and
// divides every address, stride, row and piece.
void launch_copy(const KernelParams& params, Direction direction, int vector_bytes, int max_blocks,
                 cudaStream_t stream);

// Loads the kernel's code for this width now; the driver may otherwise stop the whole device for it
// later.
void preload_copy(int vector_bytes);

}  // namespace radixkv::cuda
