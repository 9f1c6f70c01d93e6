#include <algorithm>
#include <stdexcept>

#include "cuda/copy_kernel.h"
#include "cuda/cuda_check.h"

namespace radixkv::cuda {
namespace {

// 4 blocks x 1024 threads x 4 loads x 16 bytes are 256 KiB in flight: PCIe 5 x16 needs about 90.
constexpr int kThreads = 1024;
constexpr int kDepth = 4;

// A thread's place in the payload. It goes on by adding with carries, so no size overflows and
// nothing is divided.
struct Cursor {
  int row, token, vec;

  __device__ void advance(const Cursor& step, int num_tokens, int row_vecs) {
    vec += step.vec;
    int carry = vec >= row_vecs;
    vec -= carry ? row_vecs : 0;
    token += step.token + carry;
    carry = token >= num_tokens;
    token -= carry ? num_tokens : 0;
    row += step.row + carry;
  }
};

__device__ Cursor split(int index, int num_tokens, int row_vecs) {
  return {index / row_vecs / num_tokens, index / row_vecs % num_tokens, index % row_vecs};
}

template <typename Vec>
__device__ Vec* stored_address(const KernelParams& p, const TokenCopy& token, const Cursor& at) {
  const std::int64_t offset =
      token.stored + std::int64_t{at.row - p.row_origin} * token.stored_step;
  return reinterpret_cast<Vec*>(p.stored + offset) + at.vec;
}

template <typename Vec>
__device__ Vec* engine_address(const KernelParams& p, const TokenCopy& token, const Cursor& at) {
  const EngineRow& row = p.rows[at.row];
  std::byte* slot = row.base + token.block * row.block_stride + token.within * row.slot_stride;
  if (p.piece_bytes == p.row_bytes) return reinterpret_cast<Vec*>(slot) + at.vec;
  const int piece_vecs = p.piece_bytes / int{sizeof(Vec)};
  const int piece = at.vec / piece_vecs;
  return reinterpret_cast<Vec*>(slot + piece * row.piece_stride) + (at.vec - piece * piece_vecs);
}

// All threads of the grid stride together over (row, token, vector), so that a warp reads and
// writes neighbouring vectors whatever the row's length, and rows are finished in order. Each
// thread has kDepth loads in flight.
//
// Grid: max_blocks at most, few on purpose. Moves row_bytes for each (row, token), read once and
// written once.
template <typename Vec, Direction kDirection>
__global__ void __launch_bounds__(kThreads) copy_rows(const __grid_constant__ KernelParams p) {
  const int row_vecs = p.row_bytes / int{sizeof(Vec)};
  const Cursor step = split(static_cast<int>(gridDim.x * blockDim.x), p.num_tokens, row_vecs);
  Cursor at =
      split(static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), p.num_tokens, row_vecs);
  at.row += p.row_begin;

  while (at.row < p.row_end) {
    Vec data[kDepth];
    Vec* targets[kDepth];
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      targets[i] = nullptr;
      if (at.row < p.row_end) {
        const TokenCopy token = p.tokens[at.token];
        Vec* stored = stored_address<Vec>(p, token, at);
        Vec* engine = engine_address<Vec>(p, token, at);
        targets[i] = kDirection == Direction::kLoad ? engine : stored;
        data[i] = __ldcg(kDirection == Direction::kLoad ? stored : engine);  // read once: past L1
      }
      at.advance(step, p.num_tokens, row_vecs);
    }
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (targets[i] != nullptr) __stcs(targets[i], data[i]);
    }
  }
}

template <typename Vec>
auto* kernel(Direction direction) {
  return direction == Direction::kLoad ? &copy_rows<Vec, Direction::kLoad>
                                       : &copy_rows<Vec, Direction::kStore>;
}

auto* kernel(Direction direction, int vector_bytes) {
  switch (vector_bytes) {
    case 16:
      return kernel<uint4>(direction);
    case 8:
      return kernel<uint2>(direction);
    case 4:
      return kernel<unsigned int>(direction);
    case 2:
      return kernel<unsigned short>(direction);
    case 1:
      return kernel<unsigned char>(direction);
    default:
      throw std::invalid_argument("vector_bytes: expected 1, 2, 4, 8 or 16");
  }
}

}  // namespace

void launch_copy(const KernelParams& params, Direction direction, int vector_bytes, int max_blocks,
                 cudaStream_t stream) {
  const std::int64_t num_vecs = std::int64_t{params.row_end - params.row_begin} *
                                params.num_tokens * (params.row_bytes / vector_bytes);
  if (num_vecs == 0) return;
  const std::int64_t enough_blocks = (num_vecs + kThreads * kDepth - 1) / (kThreads * kDepth);
  const auto num_blocks = static_cast<unsigned>(std::min<std::int64_t>(max_blocks, enough_blocks));
  kernel(direction, vector_bytes)<<<num_blocks, kThreads, 0, stream>>>(params);
  RADIXKV_CUDA_CHECK(cudaGetLastError());
}

void preload_copy(int vector_bytes) {
  for (const Direction direction : {Direction::kLoad, Direction::kStore}) {
    cudaFuncAttributes unused;
    RADIXKV_CUDA_CHECK(cudaFuncGetAttributes(&unused, kernel(direction, vector_bytes)));
  }
}

}  // namespace radixkv::cuda
