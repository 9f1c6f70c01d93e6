// The one description of a copy between stored chunks and engine memory, for every device.
//
//   stored chunk c: [row][token][row_bytes]      row = layer * num_kv + (0 for K, 1 for V)
//   engine buffer r: slot s begins at engine[r] + s * engine_strides[r]
//
// A chunk's strides come from its own token count: a tail is as long as it is. An engine that keeps
// its slots in blocks, or cuts a row into pieces (each head's K beside its V), says so in the last
// four fields; block b then begins at engine[r] + b * engine_strides[r].
#pragma once

#include <cstddef>
#include <cstdint>

namespace radixkv {

struct CopyParams {
  std::byte* const* engine = nullptr;  // [num_rows] address of slot 0 of each engine buffer
  const std::int64_t* engine_strides = nullptr;  // [num_rows] bytes from slot to slot, or block
  const std::int64_t* slots = nullptr;           // [num_tokens] of all slices, one after the other
  std::byte* const* chunks = nullptr;  // [num_slices] -> [num_rows, chunk_num_tokens[i], row_bytes]
  const std::int32_t* chunk_num_tokens = nullptr;  // [num_slices]
  const std::int32_t* first = nullptr;  // [num_slices] first token of the slice in its chunk
  const std::int32_t* count = nullptr;  // [num_slices] tokens of the slice
  std::int64_t num_slices = 0;
  std::int64_t num_rows = 0;  // layers * num_kv, where num_kv is 2, or 1 for MLA
  std::int64_t row_bytes = 0;
  std::int64_t block_slots = 1;                 // 1: a block is a slot
  const std::int64_t* slot_strides = nullptr;   // [num_rows] in a block; where block_slots > 1
  std::int64_t num_pieces = 1;                  // of equal length, one after the other in a chunk
  const std::int64_t* piece_strides = nullptr;  // [num_rows] in the engine; where num_pieces > 1
};

}  // namespace radixkv
