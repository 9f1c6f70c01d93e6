// A lane carries transfers of one direction: its own streams, slabs, events and tables, all made at
// start.
//
//   kernel    kernel stream  [fence] [table] [rows of group 0] [group 1] …
//   engine    copy stream    [fence] [runs of group 0] [group 1] …
//   staged    copy stream    [table] [slab 0] [slab 1] [slab 2] …            a load; a store goes
//   the other way
//             kernel stream  [fence]         [slab 0 → engine] [slab 1 → engine] …
//
// A group is one layer, or as many as make a launch worth its price. A load records an event after
// each group.
//
// Nothing here waits for the device, synchronises it or allocates on it after construction.
// Thread safety: submit() from one thread at a time; the rest from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cuda/copy_batch.h"
#include "cuda/copy_plan.h"
#include "cuda/device_engine.h"
#include "cuda/token_ring.h"

namespace radixkv::cuda {

// How bytes move.
enum class Path {
  kKernel,  // the kernel reads and writes pinned memory itself: any layout, takes multiprocessors
  kEngine,  // the copy engine moves runs that are whole on both sides
  kStaged,  // the copy engine moves stored runs, the kernel sorts rows on the device
};

struct LaneOptions {
  int max_blocks = 4;  // multiprocessors that the kernel may take
  std::int64_t slab_bytes = std::int64_t{8} << 20;
  int num_slabs = 4;
  int max_in_flight = 32;
  std::int64_t max_tokens = 262144;  // in flight together, and at most in one transfer
};

class Lane {
 public:
  // `engine` outlives the lane.
  Lane(const DeviceEngine& engine, Direction direction, const LaneOptions& options);
  ~Lane();

  // Queues a transfer behind what is on `fence` now and gives its number; nothing while too much is
  // in flight. REQUIRES: params describe this lane's engine, num_tokens <= max_tokens,
  // can_take(path, params); runs come from plan_runs(params).
  std::optional<std::int64_t> submit(const CopyParams& params, std::int64_t num_tokens,
                                     std::span<const CopyRun> runs, Path path, cudaStream_t fence);

  bool can_take(Path path, const CopyParams& params) const;

  // What is queued on `stream` from now on begins after this layer of a load.
  void hold_for_layer(std::int64_t number, std::int32_t layer, cudaStream_t stream) const;
  bool is_done(std::int64_t number) const;
  void wait(std::int64_t number) const;

 private:
  // What is known of transfer `number` until its place is used again.
  struct Flight {
    std::atomic<std::int64_t> number{-1};
    std::atomic<std::int32_t> group_layers{1};
    std::int64_t table_end = 0;
    std::vector<Event> layers;  // recorded at the last layer of each group
  };
  struct Slab {
    std::byte* data = nullptr;
    Event filled, drained;
  };
  struct Transfer {
    const CopyParams& params;
    std::span<const CopyRun> runs;
    std::int64_t num_tokens;
    std::int64_t table;  // position in the ring
    std::int32_t group_layers;
    Flight& flight;
  };

  void retire();
  void drain();  // waits for both streams
  std::int32_t group_layers(const CopyParams& params, std::int64_t num_tokens, Path path) const;
  RowGroup group(const Transfer& transfer, std::int32_t first_layer) const;
  void end_group(const Transfer& transfer, const RowGroup& rows, cudaStream_t stream);
  void run(const Transfer& transfer, Path path);
  void run_kernel(const Transfer& transfer);
  void run_engine(const Transfer& transfer);
  void run_staged(const Transfer& transfer);
  void move_part(const Transfer& transfer, const Part& part, const RowGroup& rows);
  KernelParams kernel_params(const Transfer& transfer, const RowGroup& rows) const;

  const DeviceEngine& engine_;
  const Direction direction_;
  const LaneOptions options_;
  Stream kernel_stream_;
  Stream copy_stream_;
  Event fence_;
  TokenRing ring_;
  DeviceArray<std::byte> slab_memory_;
  std::vector<Slab> slabs_;
  std::size_t next_slab_ = 0;
  std::unique_ptr<Flight[]> flights_;
  std::int64_t oldest_ = 0;  // flights before it are done and their tables free
  std::int64_t next_ = 0;
  std::vector<Part> parts_;
  CopyBatch batch_;
};

}  // namespace radixkv::cuda
